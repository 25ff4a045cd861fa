/* SPDX-License-Identifier: MIT */
/*
 * System calls without a C library: sys(__NR_name, args...) returns what the
 * kernel returned, a value or -errno. Unused arguments are passed as zero.
 *
 * Left out: errno, buffering, threads' storage: the agent needs none of it.
 */
#ifndef PVM_SYS_H
#define PVM_SYS_H
#include <stdint.h>
#include <stddef.h>
#include <asm/unistd.h>

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define SYS_PADDED(nr, a, b, c, d, e, f, ...) \
	sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define sys(...) SYS_PADDED(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* gcc may call these two by itself, even in a freestanding program. */
void *memcpy(void *to, const void *from, size_t len)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
	return start;
}

void *memset(void *to, int byte, size_t len)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(byte) : "memory");
	return start;
}

static inline size_t text_len(const char *text)
{
	size_t len = 0;

	while (text[len])
		len++;
	return len;
}

static inline int text_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Returns the end of the copy, where the next piece may go. No bound: the
 * callers' buffers are sized for it. */
static inline char *text_put(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	*to = 0;
	return to;
}

static inline char *text_put_number(char *to, unsigned long number)
{
	if (number >= 10)
		to = text_put_number(to, number / 10);
	*to++ = '0' + number % 10;
	*to = 0;
	return to;
}

/* Reads a decimal number and moves *text behind it. */
static inline unsigned long text_number(const char **text)
{
	unsigned long number = 0;

	while (**text >= '0' && **text <= '9')
		number = number * 10 + (*(*text)++ - '0');
	return number;
}
#endif
