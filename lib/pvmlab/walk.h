/* SPDX-License-Identifier: MIT */
/* What walk.c offers; cffi parses this and the C compiler includes it. */

struct pvm_entry {	/* one entry that is not empty */
	uint64_t addr;	/* first virtual address it translates */
	uint64_t raw;	/* its 64 bits */
	uint64_t phys;	/* where it lies */
	uint64_t level;	/* 0 pte, 1 pmd, 2 pud */
};

struct pvm_table {	/* one page of the tree */
	uint64_t level;	/* 0 pte, 1 pmd, 2 pud, 3 pgd */
	uint64_t phys;
	uint64_t start;	/* first virtual address it spans */
	uint64_t parent;	/* physical address of the entry that names it */
	uint64_t raw;	/* that entry's 64 bits */
};

struct pvm_layout {	/* from the kernel's debug information */
	uint64_t kernel_pgd;	/* physical address of init_top_pgt */
	uint64_t vmemmap;	/* virtual address of page 0's struct page */
	uint64_t page_size;	/* sizeof(struct page) */
	uint64_t flags, mapping, index, refcount, mapcount, compound_head;
	uint64_t entire_mapcount, folio_order;	/* in struct folio */
	uint64_t head_bit, exclusive_bit;
	uint64_t ext_size;	/* a page_ext's bytes, 0: no stamps */
	uint64_t ext_stamp;	/* ts_nsec in it */
	uint64_t ext_sections;	/* virtual address of the array of mem_section */
	uint64_t ext_section_size, ext_in_section, pfns_per_section;
};

struct pvm_page {
	uint64_t pfn;
	uint64_t born;	/* page_owner's ts_nsec */
	uint64_t flags;	/* of the folio */
	uint64_t mapping;
	uint64_t index;
	uint64_t head;
	int32_t mapcount, refcount;
	uint32_t order, exclusive;
};

int64_t pvm_walk(const uint8_t *ram, uint64_t size, uint64_t pgd, struct pvm_entry *entries, uint64_t max_entries,
		 struct pvm_table *tables, uint64_t max_tables, uint64_t *found_tables);
int64_t pvm_pages(const uint8_t *ram, uint64_t size, const struct pvm_layout *at, const uint64_t *pfns, uint64_t count,
		  struct pvm_page *out);
int64_t pvm_translate(const uint8_t *ram, uint64_t size, uint64_t pgd, uint64_t addr);
