/* SPDX-License-Identifier: MIT */
/*
 * What both stress programs begin with: text out, files, a plan to read, random numbers.
 *
 * A plan is a text of lines "word number number ...", at PLAN. Left out: a C library.
 */
#ifndef PVM_BEGIN_H
#define PVM_BEGIN_H
#include <stdarg.h>
#include <asm/fcntl.h>
#include <asm/signal.h>
#include <asm/siginfo.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include "sys.h"

#define PLAN "/tmp/plan"
#ifndef __NR_process_vm_mmap
#define __NR_process_vm_mmap 548
#endif

enum {
	PAGE = 4096,
	PVMMAP_FIXED = 1, PVMMAP_FIXED_NOREPLACE = 2, PVMMAP_MOVE = 4,
	EPERM = 1, ESRCH = 3, EINTR = 4, E_AGAIN = 11, ENOMEM = 12, EFAULT = 14, EBUSY = 16, EEXIST = 17, EINVAL = 22,
};

typedef uint64_t u64;

/* ---- text out: %s, %d (long), %x (long) ------------------------------------ */

static char *put_hex(char *to, u64 number)
{
	if (number >= 16)
		to = put_hex(to, number / 16);
	*to++ = "0123456789abcdef"[number % 16];
	*to = 0;
	return to;
}

static char *put_long(char *to, long number)
{
	if (number < 0)
		*to++ = '-', number = -number;
	return text_put_number(to, number);
}

static char *format(char *to, const char *how, va_list args)
{
	for (; *how; how++) {
		if (*how != '%')
			*to++ = *how;
		else if (*++how == 's')
			to = text_put(to, va_arg(args, const char *));
		else if (*how == 'd')
			to = put_long(to, va_arg(args, long));
		else
			to = put_hex(text_put(to, "0x"), va_arg(args, u64));
	}
	*to = 0;
	return to;
}

static void say(const char *how, ...)
{
	char text[512];
	va_list args;

	va_start(args, how);
	sys(__NR_write, 1, text, format(text, how, args) - text);
	va_end(args);
}

/* ---- files ----------------------------------------------------------------- */

static long read_text(const char *path, char *text, size_t size)
{
	long fd = sys(__NR_open, path, O_RDONLY), got, have = 0;

	if (fd < 0)
		return fd;
	while ((got = sys(__NR_read, fd, text + have, size - 1 - have)) > 0)
		have += got;
	sys(__NR_close, fd);
	text[have] = 0;
	return have;
}

static long write_text(const char *path, const char *text)
{
	long fd = sys(__NR_open, path, O_WRONLY), put;

	if (fd < 0)
		return fd;
	put = sys(__NR_write, fd, text, text_len(text));
	sys(__NR_close, fd);
	return put;
}

/* The number behind a name in "name 12" or "Name:   12 kB"; -1 where there is no such name. */
static long number_after(const char *text, const char *name)
{
	size_t len = text_len(name);

	for (; *text; text++) {
		size_t i = 0;

		while (i < len && text[i] == name[i])
			i++;
		if (i == len && (text[i] == ' ' || text[i] == ':' || text[i] == '\t')) {
			text += i;
			while (*text == ' ' || *text == ':' || *text == '\t')
				text++;
			return text_number(&text);
		}
		while (*text && *text != '\n')
			text++;
		if (!*text)
			break;
	}
	return -1;
}

/* ---- random numbers -------------------------------------------------------- */

static u64 random_state;

/* xorshift64* */
static u64 any(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1d;
}

static u64 below(u64 limit)
{
	return (any() >> 16) % limit;
}

/* Each operation has numbers of its own: those of the others do not change when one is left out. */
static void seed_for(u64 seed, u64 nth)
{
	random_state = (seed + 1) * 0x9e3779b97f4a7c15 ^ (nth + 1) * 0xbf58476d1ce4e5b9;
	any();
	any();
}

/* ---- waiting for one another, in shared memory ------------------------------- */

static void wait_until(volatile uint32_t *word, uint32_t value)
{
	uint32_t seen;

	while ((seen = *word) != value)
		sys(__NR_futex, word, FUTEX_WAIT, seen, 0);
}

static void wait_while(volatile uint32_t *word, uint32_t value)
{
	while (*word == value)
		sys(__NR_futex, word, FUTEX_WAIT, value, 0);
}

static void set_and_wake(volatile uint32_t *word, uint32_t value)
{
	*word = value;
	sys(__NR_futex, word, FUTEX_WAKE, 1 << 30);
}

/* ---- signals ----------------------------------------------------------------- */

__asm__("signal_return:	mov $15, %eax\n"
	"	syscall\n");
void signal_return(void);

static void on_signal(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction act = { .sa_flags = SA_SIGINFO | SA_RESTORER, .sa_restorer = signal_return };

	act.sa_handler = (void *)handler;
	sys(__NR_rt_sigaction, signal, &act, 0, 8);
}

/* Where the program starts: the stack holds the number of its arguments, and then these. */
void begin(long *stack) __attribute__((noreturn));
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call begin\n");
#endif
