// SPDX-License-Identifier: MIT
/*
 * What a fork() costs, with the child's exit: ticks of the TSC, which QEMU derives from the instructions it counts.
 *
 * The plan, at /tmp/plan:
 *	pages N			how many the parent has, all of them written
 *	rounds N		how often it forks
 * Prints a line of ticks for each round. Left out: what a count of instructions means (lib/pvmlab/bench.py).
 */
#include <linux/wait.h>
#include "begin.h"

static char text[256];

static u64 ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

/* Each round begins with entries that allow writing, as the first does. */
static u64 one_round(u64 at, long pages)
{
	u64 start;
	long pid;

	for (long i = 0; i < pages; i++)
		*(volatile u64 *)(at + i * PAGE) = i;
	start = ticks();
	pid = sys(__NR_fork);
	if (!pid)
		sys(__NR_exit_group, 0);
	sys(__NR_wait4, pid, 0, 0, 0);
	return ticks() - start;
}

void begin(long *stack)
{
	long pages, rounds;
	u64 at;

	(void)stack;
	read_text(PLAN, text, sizeof(text));
	pages = number_after(text, "pages");
	rounds = number_after(text, "rounds");
	at = sys(__NR_mmap, 0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (long i = 0; i < rounds; i++)
		say("%d\n", one_round(at, pages));
	sys(__NR_exit_group, 0);
	__builtin_unreachable();
}
