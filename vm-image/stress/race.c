// SPDX-License-Identifier: MIT
/*
 * process_vm_mmap() while something else happens to the same pages, on the other CPU.
 *
 * Each race is a source process, a caller that clones from it for some time, and perhaps a third that disturbs
 * them. The caller knows what a clone has to contain, whatever comes in between. The sweep is no race: it makes
 * each allocation of a call fail in turn, until the call comes through.
 *
 * The plan, at /tmp/plan:
 *	race N			which: the table at the end; none: all, one after the other
 *	ms N			how long each takes
 * Left out: a single course of events against a model of everything (mix.c).
 */
#include <linux/wait.h>
#include "begin.h"

enum { PAGES = 64, MANY = 1024 };

static const u64 source_at = 0x100000000000, clone_at = 0x200000000000 + 37 * PAGE;

static struct shared {
	volatile uint32_t ready, stop, turn;
	volatile u64 clones, refused, tag, place;
} *shared;
static char text[1 << 14];
static long ms;

/* ---- what all races need --------------------------------------------------------- */

static void failed(const char *how, ...)
{
	char line[400];
	va_list args;

	va_start(args, how);
	format(line, how, args);
	say("FAIL %s\n", line);
	shared->stop = 1;
	sys(__NR_exit_group, 1);
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

static int time_left(u64 until)
{
	return now() < until && !shared->stop;
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
	u64 seen[PAGES], until = now() + ms;

	wait_until(&shared->ready, 1);
	while (time_left(until)) {
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
	u64 until = now() + ms;

	while (time_left(until)) {
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
			else if (ret != -ESRCH && ret != -EFAULT)
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
	u64 until = now() + ms;

	while (time_left(until)) {
		long ret = clone_of(pid, source_at, PAGES, clone_at);

		if (ret == (long)clone_at)
			check_exec();
		else if (ret != -ESRCH && ret != -EFAULT && ret != -EPERM)
			failed("cloning from one who executes gives %d", ret);
	}
	end(pid);
}

/* ---- three clone from one another in a ring, and one of them is killed now and then ------ */

static volatile int *ring;

static void clone_in_a_ring(int me)
{
	map(source_at, PAGES);
	fill(source_at, PAGES, TAG + me * 0x1000);
	be_ready();
	wait_until(&shared->ready, 4);
	for (int next = (me + 1) % 3;; next = 3 - me - next) {
		if (clone_of(ring[next], source_at, PAGES, clone_at) == (long)clone_at)
			check_filled(clone_at, PAGES, TAG + next * 0x1000);
	}
}

static void ring_0(void) { clone_in_a_ring(0); }
static void ring_1(void) { clone_in_a_ring(1); }
static void ring_2(void) { clone_in_a_ring(2); }

/* Killed while they wait for a lock or hold it, all three have to be gone soon. */
static void race_ring(void)
{
	static void (*const lives[])(void) = { ring_0, ring_1, ring_2 };
	u64 until = now() + ms;

	ring = (void *)sys(__NR_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	while (time_left(until)) {
		int status;

		shared->ready = 0;
		for (int i = 0; i < 3; i++) {
			ring[i] = child(i % 2, lives[i]);
			wait_until(&shared->ready, i + 1);
		}
		be_ready();
		rest(100);
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

static void swap_on_and_off(void)
{
	for (;;) {
		sys(__NR_swapoff, "/dev/zram0");
		sys(__NR_swapon, "/dev/zram0", 0);
	}
}

static void collapse_and_split(void)
{
	map(source_at, MANY);
	sys(__NR_madvise, source_at, MANY * PAGE, MADV_HUGEPAGE);
	fill(source_at, MANY, TAG);
	be_ready();
	for (;;) {
		sys(__NR_madvise, source_at, MANY * PAGE, MADV_COLLAPSE);
		sys(__NR_madvise, source_at + 100 * PAGE, PAGE, MADV_PAGEOUT);
	}
}

static void push_out(void)
{
	map(source_at, MANY);
	fill(source_at, MANY, TAG);
	be_ready();
	for (;;)
		sys(__NR_madvise, source_at, MANY * PAGE, MADV_PAGEOUT);
}

static void compact(void)
{
	for (;;)
		write_text("/proc/sys/vm/compact_memory", "1");
}

/* Two halves, so that the second merges with the first while its pages are on the move. */
static void clone_halves(long pid, u64 until)
{
	while (time_left(until)) {
		for (int half = 0; half < 2; half++) {
			u64 part = half * MANY / 2 * PAGE;
			long ret = clone_of(pid, source_at + part, MANY / 2, clone_at + part);

			if (ret != (long)(clone_at + part))
				failed("a clone of pages on the move is refused with %d", ret);
		}
		check_filled(clone_at, MANY, TAG);
		*word(clone_at, below(MANY)) = 0;
	}
}

static void disturbed(void (*source)(void), void (*other)(void))
{
	long pid = child(0, source), third = other ? child(0, other) : 0;

	wait_until(&shared->ready, 1);
	clone_halves(pid, now() + ms);
	end(pid);
	if (third)
		end(third);
}

static void race_swapoff(void)
{
	disturbed(push_out, swap_on_and_off);
	sys(__NR_swapon, "/dev/zram0", 0);
}

static void race_collapse(void) { disturbed(collapse_and_split, NULL); }
static void race_compaction(void) { disturbed(hold_many, compact); }

/* ---- two move the same pages from one to the other and back, while they are migrated and swapped -- */

static const u64 aligned_at = 0x300000000000;

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
		if (below(4) == 0) {
			sys(__NR_swapoff, "/dev/zram0");
			sys(__NR_swapon, "/dev/zram0", 0);
		}
	}
}

/* Every other time a huge page fits where it goes. */
static void race_move(void)
{
	u64 until = now() + ms;
	long pid, third;

	shared->tag = TAG;
	pid = child(0, partner);
	third = child(0, compact_and_swap);
	while (time_left(until)) {
		wait_until(&shared->turn, 1);
		shared->place = below(2) ? aligned_at : clone_at;
		move_from(pid, source_at, shared->place);
		if (below(3) == 0)
			sys(__NR_madvise, shared->place, MANY * PAGE, MADV_PAGEOUT);
		set_and_wake(&shared->turn, 0);
	}
	end(third);
	end(pid);
	sys(__NR_swapon, "/dev/zram0", 0);
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
	u64 until = now() + ms;
	long pid = child(0, read_device_on);

	while (time_left(until)) {
		long ret;

		wait_until(&shared->turn, 1);
		while ((ret = call_for(pid, source_at, PAGES, clone_at, PVMMAP_MOVE)) == -EBUSY && time_left(until))
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
	u64 until = now() + ms;
	long pid;

	file = sys(__NR_memfd_create, "file", 0);
	pid = child(0, source_of_a_file);
	while (time_left(until)) {
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
	u64 until = now() + ms;
	long pid = child(0, break_on);

	while (time_left(until)) {
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

enum { THREADS = 8, STACK = 4 * PAGE, PATIENCE = 2000 };

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
	u64 until = now() + ms, most = 0, all = 15;
	long pid = child(0, be_busy);

	sys(__NR_sched_setaffinity, pid, sizeof(all), &all);
	sys(__NR_sched_setaffinity, 0, sizeof(all), &all);
	wait_until(&shared->ready, 1);
	for (int i = 0; i < THREADS; i++)
		thread(map_and_unmap);
	while (time_left(until)) {
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

static const char *const counters[] = { "nr_anon_pages", "nr_page_table_pages", "nr_mlock" };
enum { COUNTERS = sizeof(counters) / sizeof(*counters) };

static void count(long *found)
{
	write_text("/proc/sys/vm/stat_refresh", "1");
	read_text("/proc/vmstat", text, sizeof(text));
	for (int i = 0; i < COUNTERS; i++)
		found[i] = number_after(text, counters[i]);
	read_text("/proc/meminfo", text, sizeof(text));
	found[COUNTERS] = number_after(text, "Committed_AS") / 4;
	read_text("/proc/self/status", text, sizeof(text));
	found[COUNTERS + 1] = number_after(text, "VmSize");
	found[COUNTERS + 2] = number_after(text, "VmLck");
}

static void write_number(long fd, long number)
{
	char digits[24];

	sys(__NR_pwrite64, fd, digits, text_put_number(digits, number) - digits, 0);
}

/* Whether what was at the destination is there, byte for byte. */
static int old_is_there(void)
{
	for (long i = 0; i < PAGES; i++)
		if (*word(clone_at, i) != 0x01d0000UL + i)
			return 0;
	return 1;
}

static void same(const long *before, const long *after, long nth)
{
	for (int i = 0; i < COUNTERS + 3; i++)
		if (after[i] != before[i])
			failed("with failure %d counter %d was %d before the call, and is %d", nth, (long)i, before[i],
			       after[i]);
}

/*
 * Makes allocation after allocation of the call fail (/proc/self/fail-nth), until none is left to fail. The old
 * mapping at the destination and the counters have to be what they were.
 */
static void sweep(void)
{
	long fd = sys(__NR_open, "/proc/thread-self/fail-nth", O_RDWR), pid = child(0, hold_many);
	long before[COUNTERS + 3], after[COUNTERS + 3], nth = 0, left = 0, ret = 0, destroyed = 0;
	char answer[24];

	wait_until(&shared->ready, 1);
	write_text("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/failslab/verbose", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	if (fd < 0)
		failed("this kernel has no fault injection: %d", fd);
	memset(text, 1, sizeof(text));	/* what counting needs is there before it counts */
	count(before);
	do {
		map(clone_at, PAGES);
		fill(clone_at, PAGES, 0x01d0000);
		count(before);
		write_number(fd, ++nth);
		ret = sys(__NR_process_vm_mmap, pid, source_at + 500 * PAGE, PAGES * PAGE, clone_at, PVMMAP_FIXED);
		memset(answer, 0, sizeof(answer));
		sys(__NR_pread64, fd, answer, sizeof(answer) - 1, 0);
		left = answer[0] != '0';
		write_number(fd, 0);
		count(after);
		if (ret == (long)clone_at) {
			shared->clones++;
			check_filled(clone_at, PAGES, TAG + 500);
		} else {
			shared->refused++;
			if (ret != -ENOMEM)
				failed("with failure %d the call gives %d", nth, ret);
			read_text("/proc/self/maps", text, sizeof(text));
			if (number_after(text, "none") == -1 && sys(__NR_madvise, clone_at, PAGES * PAGE,
								       MADV_POPULATE_READ))
				destroyed++;
			else if (!old_is_there())
				failed("with failure %d the old mapping was changed", nth);
			else
				same(before, after, nth);
		}
	} while (!left && nth < 2000);
	say("sweep: %d failures, the old mapping was gone after %d\n", nth - 1, destroyed);
	if (destroyed)
		failed("a call that failed unmapped what was at the destination, %d times", destroyed);
	end(pid);
}

/* ---- all of them -------------------------------------------------------------------------------- */

static const struct { const char *name; void (*run)(void); } races[] = {
	{ "writer", race_writer }, { "kill", race_kill }, { "exec", race_exec }, { "ring", race_ring },
	{ "swapoff", race_swapoff }, { "collapse", race_collapse }, { "compaction", race_compaction },
	{ "move", race_move }, { "pin", race_pin }, { "truncate", race_truncate }, { "poison", race_poison },
	{ "busy", race_busy }, { "sweep", sweep },
};
enum { RACES = sizeof(races) / sizeof(*races) };

/* Each in a process of its own: what it leaves behind is gone with it. */
static int one(int which)
{
	int status;
	long pid;

	memset(shared, 0, sizeof(*shared));
	pid = sys(__NR_fork);
	if (!pid) {
		use_cpu(1);
		races[which].run();
		sys(__NR_exit_group, 0);
	}
	sys(__NR_wait4, pid, &status, 0, 0);
	say("%s: %d clones, %d refused, status %x\n", races[which].name, shared->clones, shared->refused,
	    (u64)status);
	return status != 0;
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
	for (int i = 0; i < RACES; i++)
		if (which < 0 || which == i)
			bad |= one(i);
	say("done\n");
	sys(__NR_exit_group, bad);
	__builtin_unreachable();
}
