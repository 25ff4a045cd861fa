/* SPDX-License-Identifier: MIT */
/*
 * What the kernel counts: what has to be back where it was when all processes are gone, and how often something
 * happened since.
 *
 * Left out: a process's own counters (/proc/PID/status).
 */
#ifndef PVM_COUNTERS_H
#define PVM_COUNTERS_H
#include <linux/falloc.h>
#include "begin.h"

/* Pages that somebody has. The last is of /proc/meminfo, the others of /proc/vmstat. */
static const char *const held[] = {
	"nr_anon_pages", "nr_page_table_pages", "nr_mlock", "nr_shmem", "nr_anon_transparent_hugepages", "Committed_AS",
};
enum { HELD = sizeof(held) / sizeof(*held), LOOKS = 50 };

static char counters_text[1 << 14];

/* What is printed goes to a file in memory, whose pages are counted, too: they are there before counting begins. */
static void have_room_to_print(long bytes)
{
	sys(__NR_fallocate, 1, FALLOC_FL_KEEP_SIZE, 0, bytes);
}

/* Each CPU keeps a part of the counters to itself; stat_refresh gathers them. */
static void count_held(long *now)
{
	write_text("/proc/sys/vm/stat_refresh", "1");
	read_text("/proc/vmstat", counters_text, sizeof(counters_text));
	for (int i = 0; i < HELD - 1; i++)
		now[i] = number_after(counters_text, held[i]);
	read_text("/proc/meminfo", counters_text, sizeof(counters_text));
	now[HELD - 1] = number_after(counters_text, held[HELD - 1]) / 4;
}

/* Which counter is not what it was; -1: none. What the dead had is given back a little later than they are waited
 * for (RCU, kworkers): a few looks. */
static int not_back(const long *before, long *now)
{
	struct __kernel_timespec pause = { .tv_nsec = 20000000 };
	int off = -1;

	for (int look = 0; look < LOOKS; look++) {
		count_held(now);
		off = HELD - 1;
		while (off >= 0 && now[off] == before[off])
			off--;
		if (off < 0)
			break;
		sys(__NR_nanosleep, &pause, 0);
	}
	return off;
}

/* How often it happened since the machine began (/proc/vmstat). */
static long happened(const char *what)
{
	read_text("/proc/vmstat", counters_text, sizeof(counters_text));
	return number_after(counters_text, what);
}
#endif
