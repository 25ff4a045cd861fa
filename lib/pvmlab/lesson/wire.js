// SPDX-License-Identifier: MIT
// Where a kernel listens: what was committed in the page is told to Python, so that it can be remembered.

function initialize({ model }) {
  function tell({ detail }) {
    if (detail.token === model.get("token")) model.send({ name: detail.name, given: detail.given });
  }
  document.addEventListener("pvmlab-commit", tell);
  return () => document.removeEventListener("pvmlab-commit", tell);
}
export default { initialize };
