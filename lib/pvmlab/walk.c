// SPDX-License-Identifier: MIT
/*
 * The quick twin of pagetable.py: one pass over the page tables, one over the
 * struct pages, on the guest's RAM as the host has it mapped. The bits of an
 * entry are the processor's (see entry.py); every offset comes in with
 * pvm_layout, from the kernel's debug information.
 *
 * A guest is never trusted: each physical address is held against the size of
 * the RAM before it is followed, and the depth is four, so a table that names
 * itself ends too.
 */
#include <stdint.h>
#include <string.h>
#include "walk.h"

#define PRESENT	0x1ULL
#define PSE	0x80ULL
#define FRAME	0x000ffffffffff000ULL

struct walk {
	const uint8_t *ram;
	uint64_t size;
	struct pvm_entry *entries;
	uint64_t max_entries, n_entries;
	struct pvm_table *tables;
	uint64_t max_tables, n_tables;
};

static void add_table(struct walk *w, unsigned level, uint64_t phys, uint64_t start, uint64_t parent, uint64_t raw)
{
	if (w->n_tables < w->max_tables)
		w->tables[w->n_tables] = (struct pvm_table){ level, phys, start, parent, raw };
	w->n_tables++;
}

static void add_entry(struct walk *w, unsigned level, uint64_t addr, uint64_t raw, uint64_t phys)
{
	if (w->n_entries < w->max_entries)
		w->entries[w->n_entries] = (struct pvm_entry){ addr, raw, phys, level };
	w->n_entries++;
}

/* An upper entry names a table unless it is a leaf or not present at all. */
static int is_table(uint64_t raw, unsigned level)
{
	return level > 0 && (raw & PRESENT) && !(raw & PSE);
}

/* The table that an entry names: raw is that entry, parent where it lies. Of the pgd, which none names, its place. */
static void walk_table(struct walk *w, unsigned level, uint64_t start, uint64_t parent, uint64_t raw, unsigned count)
{
	unsigned shift = 12 + 9 * level;
	uint64_t phys = raw & FRAME;
	const uint64_t *table;

	if (phys > w->size || w->size - phys < 4096)
		return;
	table = (const uint64_t *)(w->ram + phys);
	add_table(w, level, phys, start, parent, level < 3 ? raw : 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t found = table[i], addr = start + ((uint64_t)i << shift);

		if (!found)
			continue;
		if (is_table(found, level))
			walk_table(w, level - 1, addr, phys + 8 * i, found, 512);
		else
			add_entry(w, level, addr, found, phys + 8 * i);
	}
}

/* The user half of an mm: 256 of the pgd's 512 entries. Returns how many entries there are, kept or not. */
int64_t pvm_walk(const uint8_t *ram, uint64_t size, uint64_t pgd, struct pvm_entry *entries, uint64_t max_entries,
		 struct pvm_table *tables, uint64_t max_tables, uint64_t *found_tables)
{
	struct walk w = { ram, size, entries, max_entries, 0, tables, max_tables, 0 };

	if (pgd & 4095)
		return -1;
	walk_table(&w, 3, 0, 0, pgd, 256);
	*found_tables = w.n_tables;
	return (int64_t)w.n_entries;
}

/* Kernel virtual to physical address; -1 where nothing is mapped. */
int64_t pvm_translate(const uint8_t *ram, uint64_t size, uint64_t pgd, uint64_t addr)
{
	uint64_t table = pgd;

	for (int level = 3; level >= 0; level--) {
		unsigned shift = 12 + 9 * level;
		uint64_t raw, at = table + 8 * ((addr >> shift) & 511);

		if (at > size - 8)
			return -1;
		memcpy(&raw, ram + at, 8);
		if (!(raw & PRESENT))
			return -1;
		if (level == 0 || (raw & PSE)) {
			uint64_t mask = (1ULL << shift) - 1;

			return (int64_t)((raw & FRAME & ~mask) | (addr & mask));
		}
		table = raw & FRAME;
	}
	return -1;
}

/* Reads kernel memory, a 4 KiB page's translation kept from one read to the next. */
struct reader {
	const uint8_t *ram;
	uint64_t size, pgd, page;
	int64_t phys;
};

static uint64_t get(struct reader *r, uint64_t addr, unsigned bytes)
{
	uint64_t value = 0, phys;

	if (r->page != addr >> 12) {
		r->page = addr >> 12;
		r->phys = pvm_translate(r->ram, r->size, r->pgd, addr & ~4095ULL);
	}
	phys = (uint64_t)r->phys + (addr & 4095);
	if (r->phys < 0 || phys > r->size - bytes)
		return 0;
	memcpy(&value, r->ram + phys, bytes);
	return value;
}

/* When the page was allocated: lookup_page_ext() in mm/page_ext.c, then page_owner's ts_nsec. */
static uint64_t stamp(struct reader *sections, struct reader *owners, const struct pvm_layout *at, uint64_t pfn)
{
	uint64_t section, ext;

	if (!at->ext_size)
		return 0;
	section = at->ext_sections + pfn / at->pfns_per_section * at->ext_section_size;
	ext = get(sections, section + at->ext_in_section, 8) & ~1ULL;
	return ext ? get(owners, ext + pfn * at->ext_size + at->ext_stamp, 8) : 0;
}

/*
 * page_mapcount_is_type(), include/linux/page-flags.h: some pages (hugetlb)
 * keep their type in the top byte of _mapcount and no count of their own.
 */
static int32_t own_mapcount(int32_t found)
{
	return found < -(1 << 24) ? 0 : found + 1;
}

static void read_page(struct reader *r, const struct pvm_layout *at, uint64_t pfn, struct pvm_page *out)
{
	uint64_t page = at->vmemmap + pfn * at->page_size;
	uint64_t up = get(r, page + at->compound_head, 8), folio = up & 1 ? up - 1 : page;
	uint64_t flags = get(r, folio + at->flags, 8);

	out->pfn = pfn;
	out->flags = flags;
	out->mapping = get(r, folio + at->mapping, 8);
	out->head = (folio - at->vmemmap) / at->page_size;
	out->index = get(r, folio + at->index, 8) + pfn - out->head;
	out->refcount = (int32_t)get(r, folio + at->refcount, 4);
	out->mapcount = own_mapcount((int32_t)get(r, page + at->mapcount, 4));
	out->exclusive = get(r, page + at->flags, 8) >> at->exclusive_bit & 1;
	out->order = 0;
	if (flags >> at->head_bit & 1) {
		out->order = get(r, folio + at->folio_order, 8) & 0xff;
		out->mapcount += (int32_t)get(r, folio + at->entire_mapcount, 4) + 1;
	}
}

/* One struct pvm_page for each PFN. Returns how many were in RAM. */
int64_t pvm_pages(const uint8_t *ram, uint64_t size, const struct pvm_layout *at, const uint64_t *pfns, uint64_t count,
		  struct pvm_page *out)
{
	struct reader pages = { ram, size, at->kernel_pgd, ~0ULL, -1 }, sections = pages, owners = pages;
	int64_t n = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (pfns[i] >= size >> 12)
			continue;
		read_page(&pages, at, pfns[i], &out[n]);
		out[n].born = stamp(&sections, &owners, at, pfns[i]);
		n++;
	}
	return n;
}
