// SPDX-License-Identifier: MIT
/*
 * A random mix of mmap, munmap, mprotect, mremap, madvise, mlock, fork, exit and process_vm_mmap over three to six
 * processes, held against a model of what each page contains.
 *
 * The model is in memory that all processes share. One of them has the turn: it does an operation on itself,
 * notes in the model what that has to mean, compares, and gives the turn to whose it is next.
 *
 * What is compared after an operation, at three places in each page, and in another process at one of the three:
 * - the pages that it concerns, in the caller and, for a clone, in the source; after a fork all of the child. Left
 *   out are pages that nobody has written to since they were mapped, since a read puts a zero page where a huge
 *   page could come: but a read, a move, mprotect, mlock and every other clone have them compared, too. Left out
 *   every other time is what was paged out, so that there are swap entries to be cloned.
 * - whoever may share a frame with them: the pages of all processes with a content that one of the pages concerned
 *   had before or has now. Not those that hold 0 or one of the few contents that are there for KSM.
 * Every `check` operations, and at the end, everything is compared: each page at all places, the mappings in
 * /proc/PID/maps, VmSize and VmLck. Pages that may not be read are left out. At the end of a round all processes
 * exit, and the kernel's counters have to be where they began. At the end of all, what the kernel did meanwhile is
 * told: how many huge pages it made and split, how many pages it swapped, migrated and merged.
 *
 * An operation's numbers depend on the seed and on its place only, so that others can be left out (`keep`).
 * Left out: what runs at the same time (race.c).
 *
 * The plan, at /tmp/plan:
 *	seed N, rounds N	as many rounds, each with a seed of its own: N, N + 1, ...
 *	ops N			operations of a round
 *	check N			compare everything after so many
 *	keep A B		do operations A to B (B is left out); as many lines as needed. None: all
 *	tell 1			print each operation
 *	stay 1			at the end of the only round print the model, and leave the processes to look at
 *	plant N			a mistake, for testing who looks for mistakes
 *				1: the model's fork forgets MADV_DONTFORK
 *				2: what is written to a page shows in another process, where the same was before
 */
#include "begin.h"
#include "counters.h"

enum {
	PROCESSES = 6, FEWEST = 3, OBJECTS = 3, OBJECT_PAGES = 256, MOST_OPS = 65536,
	HUGE = 512,			/* pages of a huge page */
	BEFORE = 64,			/* pages of the arena before the first page-table edge */
	PAGES = BEFORE + 2 * HUGE + 64,
	FAILED = 99,
	AT_ONCE = 128,			/* pages of another process that are read at once */
	FILTER = 4096,			/* a power of two */
	COMMON = 0x1111, COMMONS = 4,	/* contents that many pages have, for KSM: multiples of it */
};

static const u64 arena = 0x100000000000 - BEFORE * PAGE;

enum kind { HOLE, ANON, FILE, SHARED };
enum {
	/* what belongs to the mapping */
	LOCKED = 1, DONTFORK = 2, WIPE = 4, MERGEABLE = 8, HUGE_YES = 16, HUGE_NO = 32, NORESERVE = 64,
	/* what belongs to the page: a private file page that was written; an anonymous one that nobody wrote to */
	COPIED = 128, FRESH = 256,
	OF_THE_PAGE = COPIED | FRESH,
};

struct page {
	uint8_t kind, prot;
	uint16_t flags, object, offset;	/* FILE, SHARED: page of the object */
	u64 tag;			/* ANON, or COPIED: what was written */
};

struct range { long at, n; };

static struct shared {
	struct process {
		volatile uint32_t turn;		/* may go on */
		int pid;			/* 0: nobody */
		struct page pages[PAGES];
	} processes[PROCESSES];
	u64 objects[OBJECTS][OBJECT_PAGES];
	u64 concerned[FILTER / 64];	/* one bit for each content that pages concerned had or have */
	u64 nth, done, failed, leaving, cloned, moved, refused;
	char message[512];
	uint8_t keep[MOST_OPS];
} *shared;

static struct { long seed, rounds, ops, check, tell, stay, move, plant; } plan;
static long base_size;				/* VmSize in kB without the arena */
static int object_fd[OBJECTS];
static int me;
static char text[1 << 17];

/* ---- failing ----------------------------------------------------------------- */

static void __attribute__((noreturn)) fail(const char *how, ...)
{
	va_list args;

	va_start(args, how);
	if (!shared->failed)
		format(shared->message, how, args);
	shared->failed = 1;
	sys(__NR_exit_group, FAILED);
	__builtin_unreachable();
}

static void faulted(int signal, siginfo_t *info, void *context)
{
	(void)context;
	fail("signal %d at page %d, which the model says is readable", (long)signal,
	     (long)(((u64)info->si_addr - arena) / PAGE));
}

/* ---- the model ----------------------------------------------------------------- */

static struct page *pages_of(int who)
{
	return shared->processes[who].pages;
}

static u64 address(long page)
{
	return arena + page * PAGE;
}

static u64 tag_of(const struct page *page)
{
	if (page->kind == ANON || page->flags & COPIED)
		return page->tag;
	return shared->objects[page->object][page->offset];
}

static void note_written(struct page *page, u64 tag)
{
	if (page->kind == SHARED) {
		shared->objects[page->object][page->offset] = tag;
		return;
	}
	page->tag = tag;
	page->flags &= ~FRESH;
	if (page->kind == FILE)
		page->flags |= COPIED;
}

/* Whether one VMA could hold both, one behind the other. */
static int alike(const struct page *a, const struct page *b)
{
	if (a->kind != b->kind || a->prot != b->prot || (a->flags ^ b->flags) & ~OF_THE_PAGE)
		return 0;
	return a->kind == ANON || (a->object == b->object && a->offset + 1 == b->offset);
}

/* How many pages from `at` on are mapped and alike, up to `most`. */
static long run_of(const struct page *pages, long at, long most)
{
	long n = 1;

	if (pages[at].kind == HOLE)
		return 0;
	while (n < most && alike(&pages[at + n - 1], &pages[at + n]))
		n++;
	return n;
}

static long first_hole(const struct page *pages, long at, long n)
{
	long i = 0;

	while (i < n && pages[at + i].kind != HOLE)
		i++;
	return i;
}

static int all_holes(const struct page *pages, long at, long n)
{
	for (long i = 0; i < n; i++)
		if (pages[at + i].kind != HOLE)
			return 0;
	return 1;
}

static void make_holes(struct page *pages, long at, long n)
{
	memset(&pages[at], 0, n * sizeof(*pages));
}

/* ---- comparing ------------------------------------------------------------------- */

static const int words[] = { 0, 2048, PAGE - 8 };
enum { PLACES = sizeof(words) / sizeof(*words) };
enum which { ALL, WRITTEN };			/* WRITTEN: not those that nobody wrote to */

static int readable(const struct page *page)
{
	return page->kind != HOLE && page->prot & PROT_READ;
}

static int compared(const struct page *page, enum which which)
{
	return readable(page) && !(which == WRITTEN && page->flags & FRESH);
}

static void differs(int who, long page, u64 is)
{
	fail("page %d of process %d holds %x, and the model says %x", page, (long)who, is,
	     tag_of(&pages_of(who)[page]));
}

static void compare_own_page(long i)
{
	for (int w = 0; w < PLACES; w++)
		if (*(volatile u64 *)(address(i) + words[w]) != tag_of(&pages_of(me)[i]))
			differs(me, i, *(volatile u64 *)(address(i) + words[w]));
}

/* Pages of another process are read through its mm, many at once. A page is looked up for each of its places: it is
 * one of them each time, in turn. */
static struct {
	long pages[AT_ONCE], n;
	int place;
} waiting;

static void compare_waiting(int who)
{
	static struct iovec there[AT_ONCE];
	static u64 seen[AT_ONCE];
	struct iovec here = { seen, waiting.n * 8 };
	long got = 0;

	for (long i = 0; i < waiting.n; i++)
		there[i] = (struct iovec){ (void *)address(waiting.pages[i]) + words[waiting.place], 8 };
	if (waiting.n)
		got = sys(__NR_process_vm_readv, shared->processes[who].pid, &here, 1, there, waiting.n, 0);
	if (got != waiting.n * 8)
		fail("reading %d pages of process %d from %d on gives %d", waiting.n, (long)who, waiting.pages[0], got);
	for (long i = 0; i < waiting.n; i++)
		if (seen[i] != tag_of(&pages_of(who)[waiting.pages[i]]))
			differs(who, waiting.pages[i], seen[i]);
	waiting.n = 0;
}

static void compare_later(int who, long page)
{
	waiting.pages[waiting.n++] = page;
	if (waiting.n == AT_ONCE)
		compare_waiting(who);
}

static void compare_page(int who, long page)
{
	if (who == me)
		compare_own_page(page);
	else
		compare_later(who, page);
}

static void compare_some(int who, long at, long n, enum which which)
{
	for (long i = at; i < at + n; i++)
		if (compared(&pages_of(who)[i], which))
			compare_page(who, i);
	compare_waiting(who);
	waiting.place = (waiting.place + 1) % PLACES;
}

/* ---- whoever may share a frame with what an operation concerns -------------------------- */

static u64 *filter_word(u64 tag, u64 *bit)
{
	u64 at = tag * 0x9e3779b97f4a7c15 >> 32 & (FILTER - 1);

	*bit = 1UL << at % 64;
	return &shared->concerned[at / 64];
}

static int common(u64 tag)
{
	return tag <= COMMON * COMMONS && tag % COMMON == 0;	/* 0 is one of them */
}

/* Notes what pages hold, before an operation and after it. */
static void concern(int who, long at, long n)
{
	for (long i = at; i < at + n; i++) {
		const struct page *page = &pages_of(who)[i];
		u64 bit, tag = page->kind == HOLE ? 0 : tag_of(page);

		if (!common(tag))
			*filter_word(tag, &bit) |= bit;
	}
}

static int concerned(const struct page *page)
{
	u64 bit, tag;

	if (!compared(page, WRITTEN))
		return 0;
	tag = tag_of(page);
	return !common(tag) && *filter_word(tag, &bit) & bit;
}

/* What an operation must not change: the other mappings of the frames that it had to do with. */
static void compare_sharers(void)
{
	u64 some = 0;

	for (int i = 0; i < FILTER / 64; i++)
		some |= shared->concerned[i];
	for (int who = 0; some && who < PROCESSES; who++) {
		if (!shared->processes[who].pid)
			continue;
		for (long i = 0; i < PAGES; i++)
			if (concerned(&pages_of(who)[i]))
				compare_page(who, i);
		compare_waiting(who);
	}
	memset(shared->concerned, 0, sizeof(shared->concerned));
}

static void compare(int who, long at, long n)
{
	concern(who, at, n);
	compare_some(who, at, n, ALL);
}

static void compare_written(int who, long at, long n)
{
	concern(who, at, n);
	compare_some(who, at, n, WRITTEN);
}

/* ---- comparing everything ----------------------------------------------------------------- */

/* /proc/PID/<file> of a process, into `text`. */
static void read_proc(int who, const char *file)
{
	char path[64];

	text_put(text_put(text_put_number(text_put(path, "/proc/"), shared->processes[who].pid), "/"), file);
	if (read_text(path, text, sizeof(text)) <= 0)
		fail("cannot read %s", path);
}

static u64 hex(const char **at)
{
	u64 number = 0;

	for (;; (*at)++) {
		char c = **at;

		if (c >= '0' && c <= '9')
			number = number * 16 + c - '0';
		else if (c >= 'a' && c <= 'f')
			number = number * 16 + c - 'a' + 10;
		else
			return number;
	}
}

static void compare_mapping(int who, long from, long to, const char *rights)
{
	int prot = (rights[0] == 'r' ? PROT_READ : 0) | (rights[1] == 'w' ? PROT_WRITE : 0);

	for (long i = from; i < to; i++) {
		const struct page *page = &pages_of(who)[i];

		if (page->kind == HOLE || page->prot != prot || (page->kind == SHARED) != (rights[3] == 's'))
			fail("page %d of process %d is mapped, prot %d; the model says kind %d, prot %d", i,
			     (long)who, (long)prot, (long)page->kind, (long)page->prot);
	}
}

static long compare_maps(int who)
{
	long mapped = 0, wanted = 0;

	read_proc(who, "maps");
	for (const char *at = text; *at; at++) {
		u64 from = hex(&at), to = (at++, hex(&at));

		if (from >= arena && to <= address(PAGES)) {
			compare_mapping(who, (from - arena) / PAGE, (to - arena) / PAGE, at + 1);
			mapped += (to - from) / PAGE;
		}
		while (*at && *at != '\n')
			at++;
	}
	for (long i = 0; i < PAGES; i++)
		wanted += pages_of(who)[i].kind != HOLE;
	if (mapped != wanted)
		fail("process %d has %d pages mapped; the model says %d", (long)who, mapped, wanted);
	return mapped;
}

static void compare_counters(int who, long mapped)
{
	long locked = 0;

	for (long i = 0; i < PAGES; i++)
		locked += pages_of(who)[i].flags & LOCKED;
	read_proc(who, "status");
	if (number_after(text, "VmSize") != base_size + mapped * 4)
		fail("VmSize of process %d is %d kB; the model says %d", (long)who, number_after(text, "VmSize"),
		     base_size + mapped * 4);
	if (number_after(text, "VmLck") != locked * 4)
		fail("VmLck of process %d is %d kB; the model says %d", (long)who, number_after(text, "VmLck"),
		     locked * 4);
}

static void compare_all(void)
{
	for (int who = 0; who < PROCESSES; who++) {
		if (!shared->processes[who].pid)
			continue;
		for (int place = 0; place < (who == me ? 1 : PLACES); place++)
			compare_some(who, 0, PAGES, ALL);
		compare_counters(who, compare_maps(who));
	}
}

/* ---- choosing ---------------------------------------------------------------------- */

static long some_length(void)
{
	int kind = below(32);

	if (kind < 4)
		return HUGE;
	return 1 + below(kind < 6 ? 256 : kind < 13 ? 32 : 4);
}

/* Where a huge page can be. */
static long huge_place(void)
{
	return BEFORE + HUGE * below(2);
}

static struct range some_range(void)
{
	struct range r = { .n = some_length() };

	if (r.n == HUGE && below(4))
		r.at = huge_place();
	else
		r.at = below(PAGES - r.n);
	return r;
}

/* Mostly one that lies in what could be one VMA: others are refused, and that is soon seen. */
static struct range some_run(const struct page *pages)
{
	struct range r = some_range();
	long looked = 0;

	if (below(8) == 0)
		return r;
	for (; pages[r.at].kind == HOLE && looked < PAGES; looked++)
		r.at = (r.at + 1) % PAGES;
	if (r.at + r.n > PAGES)
		r.n = PAGES - r.at;
	looked = run_of(pages, r.at, r.n);
	if (looked)
		r.n = looked;
	return r;
}

static int alive(void)
{
	int n = 0;

	for (int who = 0; who < PROCESSES; who++)
		n += shared->processes[who].pid != 0;
	return n;
}

/* Where so many pages can go. Every other time a huge page can be a huge one there, too. */
static long some_place(struct range r)
{
	if (r.n == HUGE && below(2))
		return huge_place();
	return below(PAGES - r.n);
}

static int some_process(void)
{
	int who = below(PROCESSES);

	while (!shared->processes[who].pid)
		who = (who + 1) % PROCESSES;
	return who;
}

/* Few different ones at times, so that KSM finds pages that are the same. */
static u64 some_tag(void)
{
	return below(4) ? any() : COMMON * (1 + below(COMMONS));
}

static int some_prot(void)
{
	switch (below(6)) {
	case 0: return PROT_NONE;
	case 1: return PROT_READ;
	}
	return PROT_READ | PROT_WRITE;
}

/* ---- telling ------------------------------------------------------------------------- */

static void tell(const char *how, ...)
{
	char line[512], *end;
	va_list args;

	if (!plan.tell)
		return;
	va_start(args, how);
	end = text_put(put_long(text_put(line, "op "), shared->nth), ": process ");
	*end++ = 'A' + me;
	end = format(text_put(end, ": "), how, args);
	*end++ = '\n';
	sys(__NR_write, 1, line, end - line);
}

static void unexpected(const char *call, long ret, long wanted)
{
	fail("%s gives %d; the model says %d", call, ret, wanted);
}

/* ---- operations: each does its system call, notes what that means, and compares ------------ */

/* The planted mistake that only who compares the sharers sees. */
static void show_elsewhere(const struct page *written, u64 tag)
{
	u64 values[PLACES] = { tag, tag, tag };
	struct iovec here = { values, sizeof(values) }, there[PLACES];

	for (int who = 0; who < PROCESSES; who++)
		for (long i = 0; who != me && shared->processes[who].pid && i < PAGES; i++) {
			const struct page *page = &pages_of(who)[i];

			if (page->kind != ANON || page->prot != written->prot || tag_of(page) != tag_of(written))
				continue;
			for (int w = 0; w < PLACES; w++)
				there[w] = (struct iovec){ (void *)(address(i) + words[w]), 8 };
			sys(__NR_process_vm_writev, shared->processes[who].pid, &here, 1, there, PLACES, 0);
			return;
		}
}

static void write_page(long page, u64 tag)
{
	if (plan.plant == 2 && !common(tag_of(&pages_of(me)[page])))
		show_elsewhere(&pages_of(me)[page], tag);
	for (int w = 0; w < PLACES; w++)
		*(volatile u64 *)(address(page) + words[w]) = tag;
	note_written(&pages_of(me)[page], tag);
}

static void op_write(void)
{
	struct range r = some_range();

	if (r.n > 32 && below(8))
		r.n = 32;
	tell("write pages %d..%d", r.at, r.at + r.n);
	concern(me, r.at, r.n);
	for (long i = r.at; i < r.at + r.n; i++) {
		const struct page *page = &pages_of(me)[i];
		u64 tag = some_tag();

		if (page->kind != HOLE && page->prot & PROT_WRITE)
			write_page(i, tag);
	}
	compare(me, r.at, r.n);
}

static void op_read(void)
{
	struct range r = some_range();

	tell("read pages %d..%d", r.at, r.at + r.n);
	compare(me, r.at, r.n);
}

/* Writes into another process through its mm. */
static void op_poke(void)
{
	int who = some_process();
	struct range r = some_run(pages_of(who));
	struct page *page = &pages_of(who)[r.at];
	u64 tag = some_tag(), values[3] = { tag, tag, tag };
	struct iovec here = { values, 24 }, there[3];
	long ret;

	for (int w = 0; w < PLACES; w++)
		there[w] = (struct iovec){ (void *)(address(r.at) + words[w]), 8 };
	if (page->kind == HOLE || !(page->prot & PROT_WRITE))
		return;
	ret = sys(__NR_process_vm_writev, shared->processes[who].pid, &here, 1, there, 3, 0);
	tell("process_vm_writev(process %d, page %d) = %d", (long)who, r.at, ret);
	if (ret != 24)
		unexpected("process_vm_writev", ret, 24);
	concern(who, r.at, 1);
	note_written(page, tag);
	compare(who, r.at, 1);
}

static void op_mmap(void)
{
	struct range r = some_range();
	int prot = some_prot(), kind = below(4) ? ANON : 2 + below(2), object = below(OBJECTS), fd = -1;
	int flags = below(8) ? MAP_FIXED : MAP_FIXED_NOREPLACE, spare = below(8) == 0;
	long offset = 0, ret, wanted = address(r.at);
	struct page *pages = pages_of(me);

	if (kind != ANON) {
		if (r.n > OBJECT_PAGES)
			r.n = OBJECT_PAGES;
		offset = below(OBJECT_PAGES + 1 - r.n);
		fd = object_fd[object];
	}
	if (flags == MAP_FIXED_NOREPLACE && !all_holes(pages, r.at, r.n))
		wanted = -EEXIST;
	flags |= kind == SHARED ? MAP_SHARED : MAP_PRIVATE;
	flags |= (kind == ANON ? MAP_ANONYMOUS : 0) | (spare ? MAP_NORESERVE : 0);
	ret = sys(__NR_mmap, address(r.at), r.n * PAGE, prot, flags, fd, offset * PAGE);
	tell("mmap(pages %d..%d, prot %d, flags %x) = %x", r.at, r.at + r.n, (long)prot, (u64)flags, ret);
	if (ret != wanted)
		unexpected("mmap", ret, wanted);
	concern(me, r.at, r.n);
	for (long i = 0; ret > 0 && i < r.n; i++)
		pages[r.at + i] = (struct page){ .kind = kind, .prot = prot, .object = object, .offset = offset + i,
						 .flags = (spare ? NORESERVE : 0) | (kind == ANON ? FRESH : 0) };
	compare_written(me, r.at, r.n);
}

/* What a huge page needs: a place, the advice, and then the first touch. A read has the huge zero page mapped. */
static void op_map_huge(void)
{
	struct range r = { huge_place(), HUGE };
	struct page *pages = pages_of(me);
	int write = below(4), first = below(HUGE);
	long ret = sys(__NR_mmap, address(r.at), r.n * PAGE, PROT_READ | PROT_WRITE,
		       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long advised = sys(__NR_madvise, address(r.at), r.n * PAGE, MADV_HUGEPAGE);

	tell("mmap(pages %d..%d) = %x, madvise(HUGEPAGE) = %d, %s page %d", r.at, r.at + r.n, ret, advised,
	     write ? "write" : "read", r.at + first);
	if (ret != (long)address(r.at) || advised)
		unexpected("mapping a huge page", ret, address(r.at));
	concern(me, r.at, r.n);
	for (long i = r.at; i < r.at + r.n; i++)
		pages[i] = (struct page){ .kind = ANON, .prot = PROT_READ | PROT_WRITE, .flags = HUGE_YES | FRESH };
	if (write)
		write_page(r.at + first, some_tag());
	compare(me, r.at + first, 1);
}

static void op_munmap(void)
{
	struct range r = some_range();
	long ret = sys(__NR_munmap, address(r.at), r.n * PAGE);

	tell("munmap(pages %d..%d) = %d", r.at, r.at + r.n, ret);
	if (ret)
		unexpected("munmap", ret, 0);
	concern(me, r.at, r.n);
	make_holes(pages_of(me), r.at, r.n);
}

/* Goes up to the first hole, and then says ENOMEM. */
static void op_mprotect(void)
{
	struct range r = some_range();
	struct page *pages = pages_of(me);
	long ret, until = first_hole(pages, r.at, r.n);
	int prot = some_prot();

	ret = sys(__NR_mprotect, address(r.at), r.n * PAGE, prot);
	tell("mprotect(pages %d..%d, prot %d) = %d", r.at, r.at + r.n, (long)prot, ret);
	if (ret != (until < r.n ? -ENOMEM : 0))
		unexpected("mprotect", ret, until < r.n ? -ENOMEM : 0);
	for (long i = 0; i < until; i++)
		pages[r.at + i].prot = prot;
	compare(me, r.at, r.n);
}

/* MREMAP_FIXED unmaps the target before it sees whether the source is one VMA (mremap_to()). */
static void op_mremap_move(void)
{
	struct page *pages = pages_of(me);
	struct range r = some_run(pages);
	long to = some_place(r), ret, one = run_of(pages, r.at, r.n) == r.n;
	int overlap = to < r.at + r.n && r.at < to + r.n;
	int leave = below(4) == 0 && pages[r.at].kind == ANON && one;

	ret = sys(__NR_mremap, address(r.at), r.n * PAGE, r.n * PAGE,
		  MREMAP_MAYMOVE | MREMAP_FIXED | (leave ? MREMAP_DONTUNMAP : 0), address(to));
	tell("mremap(pages %d..%d, to page %d%s) = %x", r.at, r.at + r.n, to, leave ? ", DONTUNMAP" : "", ret);
	if (pages[r.at].kind == HOLE) {
		if (ret != -EFAULT && !(overlap && ret == -EINVAL))
			unexpected("mremap", ret, -EFAULT);
		return;
	}
	if (overlap) {
		if (ret != -EINVAL)
			unexpected("mremap", ret, -EINVAL);
		return;
	}
	concern(me, to, r.n);
	make_holes(pages, to, r.n);
	if (ret != (long)address(to)) {
		if (ret != -EFAULT)
			unexpected("mremap", ret, address(to));
		return;
	}
	if (!one)
		unexpected("mremap of several VMAs", ret, -EFAULT);
	memcpy(&pages[to], &pages[r.at], r.n * sizeof(*pages));
	for (long i = 0; i < r.n && leave; i++)
		pages[r.at + i].tag = 0, pages[r.at + i].flags &= ~LOCKED;
	if (!leave)
		make_holes(pages, r.at, r.n);
	compare(me, r.at, r.n);
	compare(me, to, r.n);
}

static void op_mremap_resize(void)
{
	struct page *pages = pages_of(me);
	struct range r = some_run(pages);
	long n = 1 + below(2 * r.n), ret;

	if (r.at + n > PAGES || pages[r.at].kind == HOLE || (n > r.n && pages[r.at + r.n - 1].kind != ANON))
		return;
	ret = sys(__NR_mremap, address(r.at), r.n * PAGE, n * PAGE, 0, 0);
	tell("mremap(pages %d..%d, to %d pages) = %x", r.at, r.at + r.n, n, ret);
	if (ret != (long)address(r.at)) {
		if (n <= r.n || (ret != -ENOMEM && ret != -EFAULT))
			unexpected("mremap", ret, address(r.at));
		return;
	}
	concern(me, r.at, r.n);
	if (n < r.n)
		make_holes(pages, r.at + n, r.n - n);
	if (n > r.n && (run_of(pages, r.at, r.n) < r.n || !all_holes(pages, r.at + r.n, n - r.n)))
		unexpected("mremap into what is mapped", ret, -ENOMEM);
	for (long i = r.n; i < n; i++) {
		pages[r.at + i] = pages[r.at + r.n - 1];
		pages[r.at + i].tag = 0;
		pages[r.at + i].flags |= FRESH;
	}
	compare_written(me, r.at, n > r.n ? n : r.n);
}

static void advise_page(struct page *page, int advice)
{
	switch (advice) {
	case MADV_DONTNEED:	page->tag = 0; page->flags &= ~COPIED; break;
	case MADV_DONTFORK:	page->flags |= DONTFORK; break;
	case MADV_DOFORK:	page->flags &= ~DONTFORK; break;
	case MADV_WIPEONFORK:	page->flags |= WIPE; break;
	case MADV_KEEPONFORK:	page->flags &= ~WIPE; break;
	case MADV_HUGEPAGE:	page->flags = (page->flags & ~HUGE_NO) | HUGE_YES; break;
	case MADV_NOHUGEPAGE:	page->flags = (page->flags & ~HUGE_YES) | HUGE_NO; break;
	case MADV_MERGEABLE:	page->flags |= page->kind == SHARED ? 0 : MERGEABLE; break;
	case MADV_UNMERGEABLE:	page->flags &= ~MERGEABLE; break;
	}
}

static int refuses(const struct page *page, int advice)
{
	if (advice == MADV_WIPEONFORK)
		return page->kind != ANON;
	return advice == MADV_DONTNEED && page->flags & LOCKED;
}

/* Goes over holes and then says ENOMEM, but ends where one refuses (madvise_walk_vmas()). */
static void op_madvise(void)
{
	static const int state[] = { MADV_DONTNEED, MADV_DONTNEED, MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK,
				     MADV_KEEPONFORK, MADV_HUGEPAGE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
				     MADV_MERGEABLE, MADV_MERGEABLE, MADV_UNMERGEABLE };
	int advice = state[below(sizeof(state) / sizeof(*state))];
	struct page *pages = pages_of(me);
	struct range r = some_range();
	long ret, wanted = 0;

	ret = sys(__NR_madvise, address(r.at), r.n * PAGE, advice);
	tell("madvise(pages %d..%d, advice %d) = %d", r.at, r.at + r.n, (long)advice, ret);
	concern(me, r.at, r.n);
	for (long i = r.at; i < r.at + r.n; i++) {
		if (pages[i].kind == HOLE) {
			wanted = -ENOMEM;
		} else if (refuses(&pages[i], advice)) {
			wanted = -EINVAL;
			break;
		} else {
			advise_page(&pages[i], advice);
		}
	}
	if (ret != wanted)
		unexpected("madvise", ret, wanted);
	compare_written(me, r.at, r.n);
}

/* Advice that moves pages about and changes nothing that can be read: any answer will do. */
static void op_stir(void)
{
	static const int stirring[] = { MADV_PAGEOUT, MADV_PAGEOUT, MADV_COLD, MADV_POPULATE_READ, MADV_COLLAPSE };
	int advice = stirring[below(sizeof(stirring) / sizeof(*stirring))];
	struct range r = some_run(pages_of(me));
	long ret;

	if (advice == MADV_COLLAPSE)
		r = (struct range){ huge_place(), HUGE };
	ret = sys(__NR_madvise, address(r.at), r.n * PAGE, advice);
	tell("madvise(pages %d..%d, advice %d) = %d", r.at, r.at + r.n, (long)advice, ret);
	if (advice != MADV_PAGEOUT || below(2))
		compare_written(me, r.at, r.n);
}

static void op_shake_all(void)
{
	int compact = below(3) == 0;
	long ret = compact ? write_text("/proc/sys/vm/compact_memory", "1") :
			     write_text("/sys/fs/cgroup/mix/memory.reclaim", "512K");

	tell("%s = %d", compact ? "compact_memory" : "memory.reclaim", ret);
}

/* Locks up to the first hole. A private file page that may be written would be copied now: left alone. */
static void op_mlock(void)
{
	struct range r = some_range();
	struct page *pages = pages_of(me);
	long ret, until = first_hole(pages, r.at, r.n), none = 0;
	int lock = below(2);

	for (long i = 0; i < until; i++) {
		none += !pages[r.at + i].prot;
		if (pages[r.at + i].kind == FILE)
			lock = 0;
	}
	ret = sys(lock ? __NR_mlock : __NR_munlock, address(r.at), r.n * PAGE);
	tell("%s(pages %d..%d) = %d", lock ? "mlock" : "munlock", r.at, r.at + r.n, ret);
	if (ret != (until < r.n ? -ENOMEM : 0) && !(lock && none && ret == -ENOMEM))
		unexpected("mlock", ret, until < r.n ? -ENOMEM : 0);
	for (long i = 0; i < until; i++)
		pages[r.at + i].flags = (pages[r.at + i].flags & ~LOCKED) | (lock ? LOCKED : 0);
	compare(me, r.at, r.n);
}

/* What has to be refused, and with which errno; 0 where nothing has to be. */
static long clone_refused(int who, struct range from, long to, int flags)
{
	const struct page *source = &pages_of(who)[from.at];

	if (who == me)
		return -EINVAL;
	if (run_of(pages_of(who), from.at, from.n) < from.n || source->flags & (DONTFORK | WIPE))
		return -EFAULT;
	if (flags & PVMMAP_MOVE && source->kind != ANON)
		return -EINVAL;
	if (flags & PVMMAP_FIXED_NOREPLACE && !all_holes(pages_of(me), to, from.n))
		return -EEXIST;
	return 0;
}

/* What the caller has afterwards: the source's pages, without what is the source's own business. */
static void note_cloned(int who, struct range from, long to, int flags)
{
	struct page *source = &pages_of(who)[from.at], *copy = &pages_of(me)[to];

	memcpy(copy, source, from.n * sizeof(*copy));
	for (long i = 0; i < from.n; i++)
		copy[i].flags &= ~(LOCKED | MERGEABLE);
	if (flags & PVMMAP_MOVE)
		make_holes(source, 0, from.n);
}

/* Whether one mapping in /proc/PID/maps has the range in it. */
static int one_vma(int who, struct range r)
{
	int found = 0;

	read_proc(who, "maps");
	for (const char *at = text; *at && !found; at++) {
		u64 from = hex(&at), to = (at++, hex(&at));

		found = from <= address(r.at) && address(r.at + r.n) <= to;
		while (*at && *at != '\n')
			at++;
	}
	return found;
}

static long clone_from(int who, struct range from, long to, int flags)
{
	long ret = sys(__NR_process_vm_mmap, shared->processes[who].pid, address(from.at), from.n * PAGE, address(to),
		       flags);

	tell("process_vm_mmap(process %d, pages %d..%d, to page %d, flags %x) = %x", (long)who, from.at,
	     from.at + from.n, to, (u64)flags, ret);
	return ret;
}

/* A range that could be one VMA may be several, which is EFAULT. */
static void op_clone(void)
{
	int who = below(16) ? some_process() : me, flags = below(4) ? PVMMAP_FIXED : PVMMAP_FIXED_NOREPLACE;
	struct range from = some_run(pages_of(who));
	long to = some_place(from), ret, refused;

	if (plan.move && below(4) == 0)
		flags |= PVMMAP_MOVE;
	refused = clone_refused(who, from, to, flags);
	concern(me, to, from.n);
	concern(who, from.at, from.n);
	ret = clone_from(who, from, to, flags);
	if (ret == (long)address(to)) {
		if (refused)
			unexpected("process_vm_mmap", ret, refused);
		note_cloned(who, from, to, flags);
		shared->cloned++;
		shared->moved += !!(flags & PVMMAP_MOVE);
	} else {
		if (ret != (refused ? refused : (long)address(to)) && (ret != -EFAULT || one_vma(who, from)))
			unexpected("process_vm_mmap", ret, refused ? refused : (long)address(to));
		shared->refused++;
	}
	compare_written(who, from.at, from.n);
	compare_some(me, to, from.n, below(2) ? ALL : WRITTEN);
}

/* The child is the supervisor's, as all are: who leaves is waited for by it. */
static void op_fork(void)
{
	struct page *mine = pages_of(me), *its;
	int child = 0;
	long pid;

	while (child < PROCESSES && shared->processes[child].pid)
		child++;
	if (child == PROCESSES)
		return;
	its = pages_of(child);
	memcpy(its, mine, sizeof(struct page) * PAGES);
	for (long i = 0; i < PAGES; i++) {
		if (its[i].flags & DONTFORK && plan.plant != 1)
			make_holes(its, i, 1);
		its[i].flags &= ~LOCKED;
		if (its[i].flags & WIPE)
			its[i].tag = 0;
	}
	pid = sys(__NR_clone, CLONE_PARENT | SIGCHLD);
	if (pid < 0)
		unexpected("fork", pid, 1);
	if (!pid) {
		me = child;
		wait_until(&shared->processes[me].turn, 1);
		return;
	}
	shared->processes[child].pid = pid;
	tell("fork() = process %d", (long)child);
	compare_maps(child);
	compare_written(child, 0, PAGES);
}

static void __attribute__((noreturn)) leave(void)
{
	shared->leaving = me;
	shared->processes[me].turn = 0;	/* whoever gets this place has to wait */
	sys(__NR_exit_group, 0);
	__builtin_unreachable();
}

static void op_exit(void)
{
	if (alive() <= FEWEST)
		return;
	tell("exit()");
	concern(me, 0, PAGES);	/* whose turn is next compares */
	shared->nth++;
	leave();
}

/* ---- taking turns ------------------------------------------------------------------------ */

static void one_op(void)
{
	static const struct { int weight; void (*op)(void); } mix[] = {
		{ 16, op_write }, { 4, op_read }, { 4, op_poke }, { 8, op_mmap }, { 2, op_map_huge }, { 3, op_munmap },
		{ 6, op_mprotect }, { 5, op_mremap_move }, { 3, op_mremap_resize }, { 8, op_madvise },
		{ 5, op_stir }, { 4, op_mlock }, { 16, op_clone }, { 2, op_fork }, { 2, op_exit }, { 0, NULL },
	};
	int at = below(88), i = 0;

	shared->done++;
	if (below(256) == 0)
		return op_shake_all();
	while (mix[i].op && at >= mix[i].weight)
		at -= mix[i++].weight;
	if (mix[i].op)
		mix[i].op();
}

/* Whose turn operation `nth` is: of those that live now. */
static int whose_turn(void)
{
	seed_for(plan.seed, shared->nth);
	return some_process();
}

/* What the model says, for whoever looks from outside: process, page, whether it is an anonymous one, prot, tag; and
 * where each process could have more. */
static void print_model(void)
{
	struct __kernel_timespec pause = { .tv_nsec = 20000000 };
	long supervisor = sys(__NR_getppid);

	for (int who = 0; who < PROCESSES; who++) {
		struct process *process = &shared->processes[who];

		if (!process->pid)
			continue;
		say("arena %d %x %x\n", (long)process->pid, address(0), address(PAGES));
		for (long i = 0; i < PAGES; i++) {
			const struct page *page = &process->pages[i];
			long own = page->kind == ANON || page->flags & COPIED;

			if (page->kind != HOLE)
				say("model %d %x %d %d %x\n", (long)process->pid, address(i), own, (long)page->prot,
				    tag_of(page));
		}
	}
	while (!sys(__NR_kill, supervisor, SIGUSR1))	/* it may not wait yet */
		sys(__NR_nanosleep, &pause, 0);
	for (;;)
		sys(__NR_pause);
}

/* The loop of each process. It ends when the round does. */
static void live(void)
{
	for (;;) {
		int who = whose_turn();
		int last = shared->nth >= (u64)plan.ops;

		if (who != me && !last) {
			shared->processes[me].turn = 0;
			set_and_wake(&shared->processes[who].turn, 1);
			wait_until(&shared->processes[me].turn, 1);
			continue;
		}
		compare_sharers();
		if (last || (plan.check && shared->nth % plan.check == 0))
			compare_all();
		if (last && plan.stay)
			print_model();
		if (last)
			leave();
		who = me;
		if (shared->keep[shared->nth])
			one_op();
		if (who != me)		/* a child that this operation made */
			continue;
		compare_sharers();
		shared->nth++;
	}
}

/* ---- rounds -------------------------------------------------------------------------------- */

static void forget_everything(void)
{
	for (int who = 0; who < PROCESSES; who++) {
		shared->processes[who].pid = 0;
		shared->processes[who].turn = 0;
		make_holes(pages_of(who), 0, PAGES);
	}
	memset(shared->objects, 0, sizeof(shared->objects));
	memset(shared->concerned, 0, sizeof(shared->concerned));
	shared->nth = 0;
}

static void make_objects(void)
{
	for (int i = 0; i < OBJECTS; i++) {
		object_fd[i] = sys(__NR_memfd_create, "object", 0);
		sys(__NR_ftruncate, object_fd[i], OBJECT_PAGES * PAGE);
	}
}

static void start_processes(void)
{
	for (int who = 0; who < FEWEST; who++) {
		long pid = sys(__NR_fork);

		if (!pid) {
			me = who;
			write_text("/sys/fs/cgroup/mix/cgroup.procs", "0");
			on_signal(SIGSEGV, faulted);
			on_signal(SIGBUS, faulted);
			wait_until(&shared->processes[who].turn, 1);
			live();
		}
		shared->processes[who].pid = pid;
	}
	set_and_wake(&shared->processes[whose_turn()].turn, 1);
}

static void end_all(void)
{
	shared->failed = 1;
	for (int who = 0; who < PROCESSES; who++)
		if (shared->processes[who].pid)
			sys(__NR_kill, shared->processes[who].pid, SIGKILL);
	while (sys(__NR_wait4, -1, 0, 0, 0) > 0)
		;
}

static void nothing(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
}

/* Waits for those who leave, and gives the turn of one who left to the next. A signal says that they stay. */
static void supervise(void)
{
	int status;

	for (;;) {
		long pid = sys(__NR_wait4, -1, &status, 0, 0);

		if (pid < 0)
			return;
		if (status && status != FAILED << 8)
			say("FAIL round %d op %d: process %d ended with status %x\n", plan.seed, shared->nth, pid,
			    (u64)status);
		if (status || shared->failed)
			return end_all();
		shared->processes[shared->leaving].pid = 0;
		if (!alive())
			return;
		set_and_wake(&shared->processes[whose_turn()].turn, 1);
	}
}

static void compare_end(const long *before)
{
	long after[HELD];
	int off = not_back(before, after);

	if (off < 0)
		return;
	say("FAIL round %d op %d: %s was %d pages before the round, and is %d\n", plan.seed, shared->nth, held[off],
	    before[off], after[off]);
	shared->failed = 1;
}

static void announce(void)
{
	char line[64];

	text_put(put_long(text_put(line, "mix: round "), plan.seed), "\n");
	write_text("/dev/kmsg", line);
}

static void round(void)
{
	long before[HELD];

	announce();
	forget_everything();
	count_held(before);
	make_objects();
	on_signal(SIGUSR1, nothing);
	start_processes();
	supervise();
	for (int i = 0; i < OBJECTS; i++)
		sys(__NR_close, object_fd[i]);
	if (shared->message[0])
		say("FAIL round %d op %d: %s\n", plan.seed, shared->nth, shared->message);
	if (!shared->failed && !plan.stay)
		compare_end(before);
}

/* ---- start ----------------------------------------------------------------------------------- */

static void read_keep(const char *at)
{
	int any_line = 0;

	for (; *at; at++) {
		if (at[0] == 'k' && at[1] == 'e' && at[2] == 'e' && at[3] == 'p') {
			long from, to;

			at += 5;
			from = text_number(&at);
			at++;
			to = text_number(&at);
			for (; from < to && from < MOST_OPS; from++)
				shared->keep[from] = 1;
			any_line = 1;
		}
		while (*at && *at != '\n')
			at++;
		if (!*at)
			break;
	}
	if (!any_line)
		memset(shared->keep, 1, sizeof(shared->keep));
}

static void read_plan(void)
{
	read_text(PLAN, text, sizeof(text));
	plan.seed = number_after(text, "seed");
	plan.rounds = number_after(text, "rounds");
	plan.ops = number_after(text, "ops");
	plan.check = number_after(text, "check");
	plan.tell = number_after(text, "tell") == 1;
	plan.stay = number_after(text, "stay") == 1;
	/* a flag that the kernel does not know is seen before a process that is not there */
	plan.move = sys(__NR_process_vm_mmap, 0x7fffffff, arena, PAGE, 0, PVMMAP_MOVE) == -ESRCH;
	plan.plant = number_after(text, "plant");
	if (plan.ops > MOST_OPS)
		plan.ops = MOST_OPS;
	read_keep(text);
}

/* One CPU for all: only one of them runs at a time, and waking another CPU costs more than an operation. What is
 * the supervisor's stays in memory: it is not what is counted. */
static void settle(void)
{
	u64 cpu = 2;
	char deep[1 << 15];

	memset(deep, 1, sizeof(deep));
	__asm__ volatile("" : : "r"(deep) : "memory");
	memset(text, 1, sizeof(text));
	sys(__NR_sched_setaffinity, 0, sizeof(cpu), &cpu);
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	sys(__NR_mkdir, "/sys/fs/cgroup/mix", 0755);
	have_room_to_print(plan.tell ? 8 << 20 : 1 << 16);
	sys(__NR_mlockall, MCL_CURRENT);
	read_text("/proc/self/status", text, sizeof(text));
	base_size = number_after(text, "VmSize");
}

/* What has to happen in a mix that is worth its name. */
static const char *const events[] = {
	"thp_fault_alloc", "thp_zero_page_alloc", "thp_collapse_alloc", "thp_split_pmd", "pswpout", "pswpin", "cow_ksm",
	"pgmigrate_success",
};
enum { EVENTS = sizeof(events) / sizeof(*events) };

void begin(long *stack)
{
	long before[EVENTS];

	(void)stack;
	shared = (void *)sys(__NR_mmap, 0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	read_plan();
	settle();
	for (int i = 0; i < EVENTS; i++)
		before[i] = happened(events[i]);
	for (long last = plan.seed + plan.rounds; plan.seed < last && !shared->failed; plan.seed++)
		round();
	for (int i = 0; i < EVENTS; i++)
		say("saw %s %d\n", events[i], happened(events[i]) - before[i]);
	say("done %d ops, %d cloned, %d moved, %d refused\n", shared->done, shared->cloned, shared->moved,
	    shared->refused);
	sys(__NR_exit_group, shared->failed ? 1 : 0);
	__builtin_unreachable();
}
