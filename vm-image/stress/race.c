// SPDX-License-Identifier: MIT
/*
 * process_vm_mmap() while something else happens to the same pages, on the other CPU.
 *
 * Each race is a source process, a caller that clones from it for some time, and perhaps a third that disturbs
 * them. The caller knows what a clone has to contain, whatever comes in between. A race takes its time, and then
 * goes on until it did enough calls and until what it is about has happened: the kernel counts that. One that
 * does not get there in a minute more has failed, as has one that leaves the kernel's counters of what is held
 * other than they were. The sweeps are no races: they make each allocation of a call fail in turn, until the call
 * comes through.
 *
 * The plan, at /tmp/plan:
 *	race N			which: the table at the end; none: all, one after the other
 *	ms N			how long each takes, if that is enough
 * Left out: a single course of events against a model of everything (mix.c).
 */
#include <linux/wait.h>
#include "begin.h"
#include "counters.h"

enum { PAGES = 64, SOME = 256, MANY = 1024, LEAST = 20, LONGER = 60000 };
#define SWAP "/dev/zram0"

static const u64 source_at = 0x100000000000, clone_at = 0x200000000000 + 37 * PAGE;
static const u64 aligned_at = 0x300000000000;	/* where huge pages of the source can be huge, too */

static struct shared {
	volatile uint32_t ready, turn, swapping;
	volatile u64 clones, refused, busy, tag, place;
	volatile u64 done[3];
	volatile u64 written[PAGES];
} *shared;
static char text[1 << 14];
static long ms;
static u64 begun;

/* A race, and what has to happen in it: counters of /proc/vmstat, "refused", or "busy" (with EBUSY). */
static const struct race {
	const char *name;
	void (*run)(void);
	u64 least;
	const char *about[4];
} *race;
static long before[4];

/* ---- what all races need --------------------------------------------------------- */

static void failed(const char *how, ...)
{
	char line[400];
	va_list args;

	va_start(args, how);
	format(line, how, args);
	say("FAIL %s\n", line);
	sys(__NR_kill, 0, SIGKILL);	/* all of this race */
	__builtin_unreachable();
}

static u64 now(void)
{
	struct __kernel_timespec t;

	sys(__NR_clock_gettime, 1, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void rest(long milliseconds)
{
	struct __kernel_timespec pause = { .tv_nsec = milliseconds * 1000000 };

	sys(__NR_nanosleep, &pause, 0);
}

static void use_cpu(int cpu)
{
	u64 mask = 1UL << cpu;

	sys(__NR_sched_setaffinity, 0, sizeof(mask), &mask);
}

/* A child on a CPU; it never returns from `life`. */
static long child(int cpu, void (*life)(void))
{
	long pid = sys(__NR_fork);

	if (pid)
		return pid;
	use_cpu(cpu);
	life();
	sys(__NR_exit_group, 0);
	__builtin_unreachable();
}

static void map(u64 at, long pages)
{
	sys(__NR_mmap, at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static volatile u64 *word(u64 at, long page)
{
	return (volatile u64 *)(at + page * PAGE);
}

static void fill(u64 at, long pages, u64 tag)
{
	for (long i = 0; i < pages; i++)
		*word(at, i) = tag + i;
}

static void check_filled(u64 at, long pages, u64 tag)
{
	for (long i = 0; i < pages; i++)
		if (*word(at, i) != tag + i)
			failed("page %d of a clone holds %x, the source held %x", i, *word(at, i), tag + i);
}

static void be_ready(void)
{
	set_and_wake(&shared->ready, shared->ready + 1);
}

static void pause_forever(void)
{
	be_ready();
	for (;;)
		sys(__NR_pause);
}

static long call_for(long pid, u64 from, long pages, u64 to, long flags)
{
	long ret = sys(__NR_process_vm_mmap, pid, from, pages * PAGE, to, PVMMAP_FIXED | flags);

	if (ret == (long)to)
		shared->clones++;
	else
		shared->refused++;
	if (ret == -EBUSY)
		shared->busy++;
	return ret;
}

static long clone_of(long pid, u64 from, long pages, u64 to)
{
	return call_for(pid, from, pages, to, 0);
}

/* What pagemap says of a page of the caller's; 0: no entry. */
static u64 entry_at(u64 at)
{
	static long fd = -1;
	u64 word = 0;

	if (fd < 0)
		fd = sys(__NR_open, "/proc/self/pagemap", O_RDONLY);
	if (sys(__NR_pread64, fd, &word, 8, at / PAGE * 8) != 8)
		failed("pagemap cannot be read");
	return word & 3UL << 62 ? word : 0;
}

static void spin(u64 most)
{
	for (volatile u64 i = below(most); i > 0; i--)
		;
}

static void end(long pid)
{
	sys(__NR_kill, pid, SIGKILL);
	sys(__NR_wait4, pid, 0, 0, 0);
}

static long so_far(const char *about)
{
	if (text_same(about, "refused"))
		return shared->refused;
	return text_same(about, "busy") ? (long)shared->busy : happened(about);
}

/* What a race is about and did not see yet; NULL: nothing is missing. */
static const char *missing(void)
{
	for (int i = 0; i < 4 && race->about[i]; i++)
		if (so_far(race->about[i]) <= before[i])
			return race->about[i];
	return NULL;
}

static int goes_on(void)
{
	u64 took = now() - begun;

	return took < (u64)ms || (took < (u64)ms + LONGER && (shared->clones < race->least || missing()));
}

static void swap_off_and_on(void)
{
	long ret = sys(__NR_swapoff, SWAP);

	if (!ret)
		ret = sys(__NR_swapon, SWAP, 0);
	if (ret)
		failed("turning swap off and on gives %d", ret);
}

/* ---- a writer in the source: what was cloned never changes (D1) --------------------- */

static void write_on(void)
{
	map(source_at, PAGES);
	fill(source_at, PAGES, 0);
	be_ready();
	for (u64 n = 1;; n++)
		fill(source_at, PAGES, n << 16);
}

static void race_writer(void)
{
	long pid = child(0, write_on);
	u64 seen[PAGES];

	wait_until(&shared->ready, 1);
	while (goes_on()) {
		if (clone_of(pid, source_at, PAGES, clone_at) != (long)clone_at)
			failed("a clone is refused while the source writes");
		for (long i = 0; i < PAGES; i++)
			seen[i] = *word(clone_at, i);
		for (int again = 0; again < 20; again++)
			for (long i = 0; i < PAGES; i++)
				if (*word(clone_at, i) != seen[i])
					failed("page %d of a clone changes from %x to %x", i, seen[i],
					       *word(clone_at, i));
	}
	end(pid);
}

/* ---- the source is killed, and reaped, in the middle of a call ----------------------- */

enum { TAG = 0x7a60000 };
static long victim;

static void hold_many(void)
{
	map(source_at, MANY);
	fill(source_at, MANY, TAG);
	pause_forever();
}

static void kill_and_reap(void)
{
	long fd = sys(__NR_pidfd_open, victim, 0);

	spin(200000);
	sys(__NR_kill, victim, SIGKILL);
	sys(__NR_process_mrelease, fd, 0);
}

/* Every other time it is moved, not cloned: then it is here or there, but whole. */
static void race_kill(void)
{
	while (goes_on()) {
		long killer, ret, move = below(2) ? PVMMAP_MOVE : 0;

		shared->ready = 0;
		victim = child(0, hold_many);
		wait_until(&shared->ready, 1);
		any();
		killer = child(0, kill_and_reap);
		do {
			ret = call_for(victim, source_at, MANY, clone_at, move);
			if (ret == (long)clone_at)
				check_filled(clone_at, MANY, TAG);
			else if (ret != -ESRCH && !(move && ret == -EFAULT))	/* moved before */
				failed("cloning from one who is killed gives %d", ret);
		} while (ret == (long)clone_at);
		sys(__NR_wait4, killer, 0, 0, 0);
		sys(__NR_wait4, victim, 0, 0, 0);
	}
}

/* ---- the source calls execve() again and again ---------------------------------------- */

static void exec_on(void)
{
	const char *argv[] = { "/tmp/race", "source", NULL }, *none[] = { NULL };

	sys(__NR_execve, "/tmp/race", argv, none);
}

/* What the program is when the race has executed it: a short life, and another one. */
static void executed(void)
{
	map(source_at, PAGES);
	fill(source_at, PAGES, TAG);
	rest(1);
	exec_on();
}

/* Between mmap() and the last store a page is zero: that was the source's state, too. */
static void check_exec(void)
{
	int zero = 0;

	for (long i = 0; i < PAGES; i++) {
		u64 is = *word(clone_at, i);

		if (is ? is != (u64)TAG + i || zero : (zero = 1, 0))
			failed("page %d cloned from one who executes holds %x", i, is);
	}
}

static void race_exec(void)
{
	long pid = child(0, exec_on);

	while (goes_on()) {
		long ret = clone_of(pid, source_at, PAGES, clone_at);

		if (ret == (long)clone_at)
			check_exec();
		else if (ret != -ESRCH && ret != -EFAULT && ret != -EPERM)
			failed("cloning from one who executes gives %d", ret);
	}
	end(pid);
}

/* ---- the stack that execve() sets up is asked for: it keeps a pointer to it meanwhile ---- */

static const u64 new_stack = 0x7fffffffe000;	/* STACK_TOP_MAX - PAGE: it is moved to its place later */

static void race_stack(void)
{
	long pid = child(0, exec_on);

	while (goes_on()) {
		long ret = call_for(pid, new_stack, 1, clone_at, PVMMAP_MOVE);

		if (ret != -EBUSY && ret != -EFAULT && ret != -EPERM)
			failed("moving the stack of one who executes gives %d", ret);
	}
	end(pid);
}

/* ---- three clone from one another in a ring, and are killed after a while ---------------- */

static volatile int *ring;

static void clone_in_a_ring(int me)
{
	map(source_at, PAGES);
	fill(source_at, PAGES, TAG + me * 0x1000);
	be_ready();
	wait_until(&shared->ready, 4);
	for (int next = (me + 1) % 3;; next = 3 - me - next) {
		long ret = clone_of(ring[next], source_at, PAGES, clone_at);

		if (ret == (long)clone_at)
			check_filled(clone_at, PAGES, TAG + next * 0x1000);
		else if (!shared->turn)
			failed("cloning in a ring gives %d", ret);
		shared->done[me]++;
	}
}

static void ring_0(void) { clone_in_a_ring(0); }
static void ring_1(void) { clone_in_a_ring(1); }
static void ring_2(void) { clone_in_a_ring(2); }

/* Each comes on as long as all live: a circle of waiters would end only with the kill. */
static void wait_for_each_of_the_ring(void)
{
	u64 limit = now() + 20000;

	for (int i = 0; i < 3; i++)
		while (shared->done[i] < 5) {
			if (now() > limit)
				failed("one of a ring waits without end");
			rest(1);
		}
}

/* Killed while they wait for a lock or hold it, all three have to be gone soon. */
static void race_ring(void)
{
	static void (*const lives[])(void) = { ring_0, ring_1, ring_2 };

	ring = (void *)sys(__NR_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	while (goes_on()) {
		int status;

		shared->ready = shared->turn = 0;
		for (int i = 0; i < 3; i++) {
			shared->done[i] = 0;
			ring[i] = child(i % 2, lives[i]);
			wait_until(&shared->ready, i + 1);
		}
		be_ready();
		rest(100);
		wait_for_each_of_the_ring();
		shared->turn = 1;
		for (int i = 0; i < 3; i++)
			sys(__NR_kill, ring[i], SIGKILL);
		for (int i = 0; i < 3; i++) {
			u64 limit = now() + 20000;

			while (sys(__NR_wait4, ring[i], &status, WNOHANG, 0) == 0) {
				if (now() > limit)
					failed("one of a ring does not die");
				rest(1);
			}
			if (status != SIGKILL)
				failed("one of a ring ended with status %x", (u64)status);
		}
	}
}

/* ---- what moves pages about: swapoff, khugepaged, compaction ------------------------------- */

/* Two halves, so that the second merges with the first while its pages are on the move. */
static void clone_halves(long pid, long pages)
{
	for (int half = 0; half < 2; half++) {
		u64 part = half * pages / 2 * PAGE;
		long ret = clone_of(pid, source_at + part, pages / 2, clone_at + part);

		if (ret != (long)(clone_at + part))
			failed("a clone of pages on the move is refused with %d", ret);
	}
	check_filled(clone_at, pages, TAG);
}

/* Pages that a clone has, too, stay in memory: each round all are the source's own again. */
static void push_out(void)
{
	map(source_at, SOME);
	for (;;) {
		fill(source_at, SOME, TAG);
		sys(__NR_madvise, source_at, SOME * PAGE, MADV_PAGEOUT);
		set_and_wake(&shared->turn, 1);
		wait_until(&shared->turn, 0);
	}
}

static void swap_when_told(void)
{
	for (;;) {
		wait_until(&shared->swapping, 1);
		swap_off_and_on();
		set_and_wake(&shared->swapping, 0);
	}
}

/* Entries are cloned, and read, while swapoff replaces them one by one. */
static void race_swapoff(void)
{
	long pid = child(0, push_out), third = child(0, swap_when_told);

	while (goes_on()) {
		wait_until(&shared->turn, 1);
		set_and_wake(&shared->swapping, 1);
		spin(500000);
		clone_halves(pid, SOME);
		wait_until(&shared->swapping, 0);
		sys(__NR_munmap, clone_at, SOME * PAGE);
		set_and_wake(&shared->turn, 0);
	}
	end(pid);
	end(third);
}

static void disturbed(void (*source)(void), void (*other)(void))
{
	long pid = child(0, source), third = other ? child(0, other) : 0;

	wait_until(&shared->ready, 1);
	while (goes_on()) {
		clone_halves(pid, MANY);
		*word(clone_at, below(MANY)) = 0;
		if (below(2))
			sys(__NR_munmap, clone_at, MANY * PAGE);
	}
	end(pid);
	if (third)
		end(third);
}

/* A huge page is split by a write while a clone has it, too, and by paging out a part of it when none has. */
static void collapse_and_split(void)
{
	map(source_at, MANY);
	sys(__NR_madvise, source_at, MANY * PAGE, MADV_HUGEPAGE);
	fill(source_at, MANY, TAG);
	be_ready();
	for (;;) {
		long page = below(MANY);

		sys(__NR_madvise, source_at, MANY * PAGE, MADV_COLLAPSE);
		*word(source_at, page) = TAG + page;
		sys(__NR_madvise, source_at + 100 * PAGE, PAGE, MADV_PAGEOUT);
	}
}

static void compact(void)
{
	for (;;)
		write_text("/proc/sys/vm/compact_memory", "1");
}

static void race_collapse(void) { disturbed(collapse_and_split, NULL); }
static void race_compaction(void) { disturbed(hold_many, compact); }

/* ---- two move the same pages from one to the other and back, while they are migrated and swapped -- */

/* Take the pages, over something that is mapped there or over nothing; see that they are right; write others. */
static void move_from(long pid, u64 from, u64 to)
{
	long ret;

	if (below(2))
		map(to, MANY);
	ret = call_for(pid, from, MANY, to, PVMMAP_MOVE);
	if (ret != (long)to)
		failed("moving pages that nobody pins is refused with %d", ret);
	check_filled(to, MANY, shared->tag);
	shared->tag += 0x10000;
	fill(to, MANY, shared->tag);
}

static void partner(void)
{
	map(source_at, MANY);
	sys(__NR_madvise, source_at, MANY * PAGE, MADV_HUGEPAGE);
	fill(source_at, MANY, shared->tag);
	for (;;) {
		if (below(3) == 0)
			sys(__NR_madvise, source_at, MANY * PAGE, MADV_COLLAPSE);
		if (below(3) == 0)
			sys(__NR_madvise, source_at, MANY * PAGE, MADV_PAGEOUT);
		set_and_wake(&shared->turn, 1);
		spin(20000);
		wait_until(&shared->turn, 0);
		move_from(sys(__NR_getppid), shared->place, source_at);
	}
}

static void compact_and_swap(void)
{
	for (;; rest(3)) {
		write_text("/proc/sys/vm/compact_memory", "1");
		if (below(4) == 0)
			swap_off_and_on();
	}
}

/* Every other time a huge page fits where it goes. */
static void race_move(void)
{
	long pid, third;

	shared->tag = TAG;
	pid = child(0, partner);
	third = child(0, compact_and_swap);
	while (goes_on()) {
		wait_until(&shared->turn, 1);
		shared->place = below(2) ? aligned_at : clone_at;
		move_from(pid, source_at, shared->place);
		if (below(3) == 0)
			sys(__NR_madvise, shared->place, MANY * PAGE, MADV_PAGEOUT);
		set_and_wake(&shared->turn, 0);
	}
	end(third);
	end(pid);
}

/* ---- who is moved from writes on, until there is nothing to write to -------------------------------- */

/* Few pages, so that their entries stay in the TLB, on both sides of a page table's edge. */
enum { FIRST = 512 - PAGES / 2 };

/* Huge pages in shared->place, or the pages that are written to alone: that is a shorter call. */
static void give_anew(void)
{
	shared->place = below(2);
	if (shared->place) {
		map(source_at, MANY);
		sys(__NR_madvise, source_at, MANY * PAGE, MADV_HUGEPAGE);
	} else {
		map(source_at + FIRST * PAGE, PAGES);
	}
	for (int i = 0; i < PAGES; i++)
		shared->written[i] = 0;
}

/* The store that found nothing is done again, after this, on new pages. All stores before it are noted. */
static void taken(int signal, siginfo_t *info, void *context)
{
	u64 at = (u64)info->si_addr - source_at;

	(void)signal, (void)context;
	if (at < FIRST * PAGE || at >= (FIRST + PAGES) * PAGE)
		failed("a writer faults at %x", at);
	set_and_wake(&shared->turn, 2);
	wait_until(&shared->turn, 0);
	give_anew();
	set_and_wake(&shared->turn, 1);
}

static void write_and_note(void)
{
	on_signal(SIGSEGV, taken);
	give_anew();
	set_and_wake(&shared->turn, 1);
	for (u64 n = 1;; n++)
		for (int i = 0; i < PAGES; i++) {
			*word(source_at, FIRST + i) = n;
			shared->written[i] = n;
		}
}

static void take(long pid, u64 to)
{
	u64 from = shared->place ? 0 : FIRST, pages = shared->place ? MANY : PAGES;
	long ret = call_for(pid, source_at + from * PAGE, pages, to + from * PAGE, PVMMAP_MOVE);

	if (ret != (long)(to + from * PAGE))
		failed("moving pages that are written to is refused with %d", ret);
}

/* Nothing is written to what is here; one who does not fault may still write. */
static void check_unchanged(u64 at, const u64 *seen)
{
	for (long i = 0; i < PAGES; i++)
		if (*word(at, FIRST + i) != seen[i])
			failed("page %d changes from %x to %x after it was moved", i, seen[i], *word(at, FIRST + i));
}

static void check_nothing_lost(const u64 *seen)
{
	for (long i = 0; i < PAGES; i++)
		if (seen[i] != shared->written[i])
			failed("page %d was moved with %x, and the last that was written to it is %x", i, seen[i],
			       shared->written[i]);
}

static void race_give(void)
{
	long pid = child(0, write_and_note);
	u64 seen[PAGES];

	while (goes_on()) {
		u64 to = below(2) ? aligned_at : clone_at;

		wait_until(&shared->turn, 1);
		spin(20000);
		take(pid, to);
		for (int i = 0; i < PAGES; i++)
			seen[i] = *word(to, FIRST + i);
		while (shared->turn != 2)
			check_unchanged(to, seen);
		check_unchanged(to, seen);
		check_nothing_lost(seen);
		set_and_wake(&shared->turn, 0);
	}
	end(pid);
}

/* ---- what is to be moved is pinned again and again, for a device that writes to it ------------------ */

static void read_device_on(void)
{
	long fd = sys(__NR_open, "/dev/zram0", O_RDONLY | O_DIRECT);

	if (fd < 0)
		failed("there is no device to read from: %d", fd);
	for (;;) {
		map(source_at, PAGES);
		fill(source_at, PAGES, TAG);
		set_and_wake(&shared->turn, 1);
		while (sys(__NR_pread64, fd, source_at, PAGES * PAGE, 0) == PAGES * PAGE)
			;
		wait_until(&shared->turn, 0);
	}
}

/* Once a page was moved, no device writes to it. */
static void race_pin(void)
{
	long pid = child(0, read_device_on);

	while (goes_on()) {
		long ret;

		wait_until(&shared->turn, 1);
		while ((ret = call_for(pid, source_at, PAGES, clone_at, PVMMAP_MOVE)) == -EBUSY && goes_on())
			spin(5000);
		if (ret == -EBUSY)
			break;
		if (ret != (long)clone_at)
			failed("moving pages that a device writes to is refused with %d", ret);
		fill(clone_at, PAGES, TAG * 2);
		spin(50000);
		check_filled(clone_at, PAGES, TAG * 2);
		set_and_wake(&shared->turn, 0);
	}
	end(pid);
}

/* ---- the file is truncated ------------------------------------------------------------------------ */

static long file;

/* Half of the pages are the file's, half are private copies. */
static void truncate_on(void)
{
	for (;;) {
		sys(__NR_ftruncate, file, PAGES * PAGE);
		for (long i = 0; i < PAGES; i++)
			if (i % 2)
				*word(source_at, i) = TAG + i;
			else
				(void)*word(source_at, i);
		set_and_wake(&shared->turn, 1);
		spin(20000);
		sys(__NR_ftruncate, file, 0);
		set_and_wake(&shared->turn, 2);
		wait_until(&shared->turn, 0);
	}
}

static void source_of_a_file(void)
{
	sys(__NR_mmap, source_at, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
	truncate_on();
}

/* Both halves over what was there or over nothing. When all is over, none of the file's pages is mapped. */
static void race_truncate(void)
{
	long pid;

	file = sys(__NR_memfd_create, "file", 0);
	pid = child(0, source_of_a_file);
	while (goes_on()) {
		wait_while(&shared->turn, 0);
		if (below(2))
			sys(__NR_munmap, clone_at, PAGES * PAGE);
		for (int half = 0; half < 2; half++) {
			u64 part = half * PAGES / 2 * PAGE;
			long ret = clone_of(pid, source_at + part, PAGES / 2, clone_at + part);

			if (ret != (long)(clone_at + part))
				failed("a clone of a file that is truncated is refused with %d", ret);
		}
		wait_until(&shared->turn, 2);
		for (long i = 0; i < PAGES; i++)
			if (entry_at(clone_at + i * PAGE))
				failed("page %d of a clone is there after its file was truncated: %x", i,
				       entry_at(clone_at + i * PAGE));
		set_and_wake(&shared->turn, 0);
	}
	end(pid);
}

/* ---- a page of the source breaks --------------------------------------------------------------------- */

#define HWPOISON "/sys/kernel/debug/hwpoison/"
static const u64 pfn_bits = (1UL << 55) - 1;

static void write_pfn(const char *path, u64 pfn)
{
	char digits[24];

	*put_hex(text_put(digits, "0x"), pfn) = 0;
	shared->tag = write_text(path, digits);
}

static void break_on(void)
{
	for (;;) {
		u64 pfn;

		map(source_at, PAGES);
		fill(source_at, PAGES, TAG);
		shared->place = below(PAGES);
		pfn = entry_at(source_at + shared->place * PAGE) & pfn_bits;
		set_and_wake(&shared->turn, 1);
		spin(20000);
		write_pfn(HWPOISON "corrupt-pfn", pfn);
		set_and_wake(&shared->turn, 2);
		wait_until(&shared->turn, 0);
		sys(__NR_munmap, source_at, PAGES * PAGE);
		write_pfn(HWPOISON "unpoison-pfn", pfn);
	}
}

/* What a page holds, read in a way that a broken one does not kill for; 0 if it cannot be read. */
static u64 try_to_read(u64 at)
{
	u64 value = 0;
	struct iovec to = { &value, 8 }, from = { (void *)at, 8 };

	return sys(__NR_process_vm_readv, sys(__NR_getpid), &to, 1, &from, 1, 0) == 8 ? value : 0;
}

/* Cloned or moved, before or after: the broken page can be read by nobody, and all others are right. */
static void race_poison(void)
{
	long pid = child(0, break_on);

	while (goes_on()) {
		long ret;

		wait_while(&shared->turn, 0);
		spin(20000);
		ret = call_for(pid, source_at, PAGES, clone_at, below(2) ? PVMMAP_MOVE : 0);
		if (ret != (long)clone_at)
			failed("a call for pages one of which breaks is refused with %d", ret);
		wait_until(&shared->turn, 2);
		for (u64 i = 0; i < PAGES; i++) {
			u64 is = try_to_read(clone_at + i * PAGE);

			if (is != (u64)TAG + i && (is || i != shared->place))
				failed("page %d holds %x, page %d is the one that broke", i, is, shared->place);
			if (is && i == shared->place && shared->tag < 1UL << 32)
				failed("page %d broke and can be read", i);
		}
		sys(__NR_munmap, clone_at, PAGES * PAGE);
		set_and_wake(&shared->turn, 0);
	}
	end(pid);
}

/* ---- both have threads that map and unmap all the time ---------------------------------------------- */

enum { THREADS = 8, STACK = 4 * PAGE, PATIENCE = 10000 };	/* one that starves: 27,000 */

static void map_and_unmap(void)
{
	for (;; shared->tag++) {
		long at = sys(__NR_mmap, 0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		fill(at, 4, 0);
		sys(__NR_munmap, at, 4 * PAGE);
	}
}

/* clone(2) in a form that needs no C library: the thread finds where to go on top of its stack. */
static void thread(void (*life)(void))
{
	u64 top = sys(__NR_mmap, 0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + STACK;
	long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, ret;

	*(u64 *)(top - 16) = (u64)life;
	__asm__ volatile("xor %%r10d, %%r10d; xor %%r8d, %%r8d; syscall; test %%rax, %%rax; jnz 1f; pop %%rax; call *%%rax; 1:"
			 : "=a"(ret) : "a"(__NR_clone), "D"(flags), "S"(top - 16), "d"(0)
			 : "rcx", "r8", "r10", "r11", "memory");
	if (ret < 0)
		failed("there is no thread: %d", ret);
}

static void be_busy(void)
{
	map(source_at, PAGES);
	fill(source_at, PAGES, TAG);
	for (int i = 0; i < THREADS; i++)
		thread(map_and_unmap);
	pause_forever();
}

/* How long a call waits is told by how often the others got what it waits for: all CPUs are for all. */
static void race_busy(void)
{
	u64 most = 0, all = 15;
	long pid = child(0, be_busy);

	sys(__NR_sched_setaffinity, pid, sizeof(all), &all);
	sys(__NR_sched_setaffinity, 0, sizeof(all), &all);
	wait_until(&shared->ready, 1);
	for (int i = 0; i < THREADS; i++)
		thread(map_and_unmap);
	while (goes_on()) {
		u64 before = shared->tag, others;

		if (clone_of(pid, source_at, PAGES, clone_at) != (long)clone_at)
			failed("a clone from one who is busy is refused");
		others = shared->tag - before;
		most = others > most ? others : most;
	}
	say("busy: others mapped up to %d times during one call\n", most);
	if (most > PATIENCE)
		failed("others mapped %d times while a call waited", most);
	end(pid);
}

/* ---- every allocation of a call fails once --------------------------------------------------- */

enum { OLD = 0x01d0000, VMA = 16 };

/* What a call of a sweep takes, and where it puts it: over several VMAs. */
static struct { void (*prepare)(void); u64 from, pages, to, flags; } swept;

static void prepare_on(void)
{
	for (;;) {
		swept.prepare();
		set_and_wake(&shared->turn, 1);
		wait_until(&shared->turn, 0);
	}
}

static void prepare_small(void)
{
	map(source_at + swept.from * PAGE, swept.pages);
	fill(source_at + swept.from * PAGE, swept.pages, TAG + swept.from);
}

static void prepare_huge(void)
{
	map(source_at, MANY);
	sys(__NR_madvise, source_at, MANY * PAGE, MADV_HUGEPAGE);
	fill(source_at, MANY, TAG);
}

static void prepare_swapped(void)
{
	prepare_small();
	sys(__NR_madvise, source_at + swept.from * PAGE, swept.pages * PAGE, MADV_PAGEOUT);
}

static void map_file(int flags)
{
	sys(__NR_mmap, source_at + swept.from * PAGE, swept.pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
	    file, 0);
}

/* Every other page is a copy, the others are the file's. */
static void prepare_file(void)
{
	map_file(MAP_SHARED);
	fill(source_at + swept.from * PAGE, swept.pages, TAG + swept.from);
	map_file(MAP_PRIVATE);
	for (u64 i = swept.from; i < swept.from + swept.pages; i += 2)
		*word(source_at, i) = TAG + i;
}

static void prepare_old(void)
{
	map(swept.to, swept.pages);
	fill(swept.to, swept.pages, OLD);
	for (u64 i = 0; i < swept.pages; i += 2 * VMA)
		sys(__NR_mprotect, swept.to + i * PAGE, VMA * PAGE, PROT_READ);
}

/* What the machine holds, what the caller has, what the source has. A huge page may end in pieces. */
enum { COUNTED = HELD + 4 };

static void count(long pid, long *found)
{
	char path[64];

	count_held(found);
	for (int i = 0; i < HELD; i++)
		if (text_same(held[i], "nr_anon_transparent_hugepages"))
			found[i] = 0;
	for (int i = 0; i < 2; i++) {
		text_put(text_put_number(text_put(path, "/proc/"), i ? pid : sys(__NR_getpid)), "/status");
		read_text(path, text, sizeof(text));
		found[HELD + 2 * i] = number_after(text, "VmSize");
		found[HELD + 2 * i + 1] = number_after(text, "VmLck");
	}
}

static void check_counted(long pid, const long *were, long nth)
{
	long are[COUNTED];
	int off = 0;

	for (int look = 0; look < LOOKS && off >= 0; look++) {
		count(pid, are);
		off = COUNTED - 1;
		while (off >= 0 && are[off] == were[off])
			off--;
		if (off >= 0)
			rest(20);
	}
	if (off >= 0)
		failed("with failure %d %s was %d before the call, and is %d", nth,
		       off < HELD ? held[off] : off < HELD + 2 ? "a number of the caller" : "a number of the source",
		       were[off], are[off]);
}

/* How many pages of the source can be read, and are right. */
static u64 source_pages(long pid)
{
	static struct iovec there[MANY];
	static u64 values[MANY];
	struct iovec here = { values, swept.pages * 8 };
	long got;

	for (u64 i = 0; i < swept.pages; i++)
		there[i] = (struct iovec){ (void *)(source_at + (swept.from + i) * PAGE), 8 };
	got = sys(__NR_process_vm_readv, pid, &here, 1, there, swept.pages, 0);
	for (long i = 0; i < got / 8; i++)
		if (values[i] != TAG + swept.from + i)
			failed("page %d of the source holds %x after the call", i, values[i]);
	return got < 0 ? 0 : got / 8;
}

/* The call, with its nth allocation failing (/proc/self/fail-nth); *all: it has not as many. */
static long call_failing(long fd, long pid, long nth, int *all)
{
	char answer[24] = "";
	long ret;

	sys(__NR_pwrite64, fd, answer, text_put_number(answer, nth) - answer, 0);
	ret = call_for(pid, source_at + swept.from * PAGE, swept.pages, swept.to, swept.flags);
	memset(answer, 0, sizeof(answer));
	sys(__NR_pread64, fd, answer, sizeof(answer) - 1, 0);
	*all = answer[0] != '0';
	sys(__NR_pwrite64, fd, "0", 1, 0);
	return ret;
}

/* What was at the destination is there, byte for byte; so is the source, and all is counted as before. */
static void check_nothing_happened(long pid, long ret, const long *were, long nth)
{
	if (ret != -ENOMEM)
		failed("with failure %d the call gives %d", nth, ret);
	if (sys(__NR_madvise, swept.to, swept.pages * PAGE, MADV_POPULATE_READ))
		failed("a call that failed unmapped what was at the destination, with failure %d", nth);
	for (u64 i = 0; i < swept.pages; i++)
		if (*word(swept.to, i) != OLD + i)
			failed("with failure %d page %d of the old mapping was changed", nth, i);
	check_counted(pid, were, nth);
	if (source_pages(pid) != swept.pages)
		failed("with failure %d the source has lost pages", nth);
}

static void check_all_happened(long pid)
{
	u64 left = swept.flags & PVMMAP_MOVE ? 0 : swept.pages, is;

	check_filled(swept.to, swept.pages, TAG + swept.from);
	is = source_pages(pid);
	if (is != left)
		failed("after the call the source has %d pages of %d", is, left);
}

static void fail_often(void)
{
	write_text("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/failslab/verbose", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

/* Makes allocation after allocation of the call fail, until none is left to fail. */
static void sweep(void)
{
	long fd = sys(__NR_open, "/proc/thread-self/fail-nth", O_RDWR), pid, were[COUNTED], nth = 0, ret;
	int all = 0;

	if (fd < 0)
		failed("this kernel has no fault injection: %d", fd);
	fail_often();
	file = sys(__NR_memfd_create, "file", 0);
	sys(__NR_ftruncate, file, MANY * PAGE);
	pid = child(0, prepare_on);
	wait_until(&shared->turn, 1);
	source_pages(pid);		/* what looking needs is there before anything is counted */
	count(pid, were);
	set_and_wake(&shared->turn, 0);
	while (!all && nth < 5000) {
		wait_until(&shared->turn, 1);
		prepare_old();
		count(pid, were);
		ret = call_failing(fd, pid, ++nth, &all);
		if (ret == (long)swept.to)
			check_all_happened(pid);
		else
			check_nothing_happened(pid, ret, were, nth);
		sys(__NR_munmap, swept.to, swept.pages * PAGE);
		set_and_wake(&shared->turn, 0);
	}
	say("%s: %d failures\n", race->name, nth - 1);
	end(pid);
}

/* Over the edge of a page table. */
static void sweep_small(void (*prepare)(void), u64 flags)
{
	swept = (typeof(swept)){ prepare, 500, PAGES, clone_at, flags };
	sweep();
}

/* A part of a huge page, and one that is whole; the place of the other end decides whether it stays so. */
static void sweep_huge(u64 place, u64 flags)
{
	swept = (typeof(swept)){ prepare_huge, 448, MANY - 448, place + 448 * PAGE, flags };
	sweep();
}

static void sweep_plain(void) { sweep_small(prepare_small, 0); }
static void sweep_swapped(void) { sweep_small(prepare_swapped, 0); }
static void sweep_file(void) { sweep_small(prepare_file, 0); }
static void sweep_whole(void) { sweep_huge(aligned_at, 0); }
static void sweep_pieces(void) { sweep_huge(clone_at, 0); }
static void sweep_move(void) { sweep_small(prepare_small, PVMMAP_MOVE); }
static void sweep_move_swapped(void) { sweep_small(prepare_swapped, PVMMAP_MOVE); }
static void sweep_move_whole(void) { sweep_huge(aligned_at, PVMMAP_MOVE); }
static void sweep_move_pieces(void) { sweep_huge(clone_at, PVMMAP_MOVE); }

/* ---- all of them -------------------------------------------------------------------------------- */

static const struct race races[] = {
	{ "writer", race_writer, LEAST, { NULL } },
	{ "kill", race_kill, LEAST, { "refused" } },
	{ "exec", race_exec, LEAST, { "refused" } },
	{ "stack", race_stack, 0, { "busy" } },
	{ "ring", race_ring, LEAST, { NULL } },
	{ "swapoff", race_swapoff, LEAST, { "pswpout", "pswpin" } },
	{ "collapse", race_collapse, LEAST, { "thp_collapse_alloc", "thp_split_pmd" } },
	{ "compaction", race_compaction, LEAST, { "pgmigrate_success" } },
	{ "move", race_move, LEAST, { "thp_split_pmd", "pgmigrate_success", "pswpout", "pswpin" } },
	{ "give", race_give, LEAST, { "thp_fault_alloc", "thp_split_pmd" } },
	{ "pin", race_pin, LEAST, { "nr_foll_pin_acquired", "busy" } },
	{ "truncate", race_truncate, LEAST, { NULL } },
	{ "poison", race_poison, LEAST, { NULL } },
	{ "busy", race_busy, LEAST, { NULL } },
	{ "sweep", sweep_plain, 1, { "refused" } },
	{ "sweep-swapped", sweep_swapped, 1, { "refused", "pswpout" } },
	{ "sweep-file", sweep_file, 1, { "refused" } },
	{ "sweep-whole", sweep_whole, 1, { "refused", "thp_fault_alloc", "thp_split_pmd" } },
	{ "sweep-pieces", sweep_pieces, 1, { "refused", "thp_fault_alloc", "thp_split_pmd" } },
	{ "sweep-move", sweep_move, 1, { "refused" } },
	{ "sweep-move-swapped", sweep_move_swapped, 1, { "refused", "pswpout" } },
	{ "sweep-move-whole", sweep_move_whole, 1, { "refused", "thp_fault_alloc", "thp_split_pmd" } },
	{ "sweep-move-pieces", sweep_move_pieces, 1, { "refused", "thp_fault_alloc", "thp_split_pmd" } },
};
enum { RACES = sizeof(races) / sizeof(*races) };

/* In a process of its own, and a group of its own: what it leaves behind is gone with them. */
static int run(void)
{
	int status;
	long pid = sys(__NR_fork);

	if (!pid) {
		sys(__NR_setpgid, 0, 0);
		use_cpu(1);
		begun = now();
		race->run();
		sys(__NR_exit_group, 0);
	}
	sys(__NR_wait4, pid, &status, 0, 0);
	sys(__NR_kill, -pid, SIGKILL);
	return status;
}

/* Whether a race that ended by itself was one, and left nothing behind. */
static int is_right(const long *held_before)
{
	const char *not_seen = missing();
	long now[HELD];
	int off = not_back(held_before, now);

	if (shared->clones < race->least)
		say("FAIL %s: %d clones in all that time\n", race->name, shared->clones);
	else if (not_seen)
		say("FAIL %s: %s did not rise, which is what this is about\n", race->name, not_seen);
	else if (off >= 0)
		say("FAIL %s: %s was %d pages before, and is %d\n", race->name, held[off], held_before[off], now[off]);
	else
		return 1;
	return 0;
}

static int one(void)
{
	long held_before[HELD];
	int status, right;

	memset(shared, 0, sizeof(*shared));
	count_held(held_before);
	for (int i = 0; i < 4 && race->about[i]; i++)
		before[i] = so_far(race->about[i]);
	status = run();
	sys(__NR_swapon, SWAP, 0);	/* one who was killed may have left it off */
	right = !status && is_right(held_before);
	for (int i = 0; i < 4 && race->about[i]; i++)
		say("saw %s %d\n", race->about[i], so_far(race->about[i]) - before[i]);
	say("%s: %d clones, %d refused, status %x\n", race->name, shared->clones, shared->refused, (u64)status);
	return !right;
}

/* What is this program's own does not come and go while others' is counted. */
static void settle(void)
{
	char deep[1 << 15];

	memset(deep, 1, sizeof(deep));
	__asm__ volatile("" : : "r"(deep) : "memory");
	memset(text, 1, sizeof(text));
	memset(counters_text, 1, sizeof(counters_text));
	have_room_to_print(1 << 16);
	sys(__NR_mlockall, MCL_CURRENT);
}

void begin(long *stack)
{
	long which;
	int bad = 0;

	if (stack[0] > 1)
		executed();
	read_text(PLAN, text, sizeof(text));
	which = number_after(text, "race");
	ms = number_after(text, "ms");
	seed_for(number_after(text, "seed"), 0);
	shared = (void *)sys(__NR_mmap, 0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	settle();
	for (int i = 0; i < RACES; i++) {
		race = &races[i];
		if (which < 0 || which == i)
			bad |= one();
	}
	say("done\n");
	sys(__NR_exit_group, bad);
	__builtin_unreachable();
}
