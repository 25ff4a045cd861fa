// SPDX-License-Identifier: MIT
/*
 * A task: a process that does what it is told, and nothing else.
 *
 *     task SLOT NAME
 *
 * It takes frames from its slot's pipe, does one operation for each, and
 * replies. Its memory is made to stay still, so that pictures taken before and
 * after a call show the call only: no C library, no heap, no initialised data
 * (two mappings, text and bss, beside what the kernel adds), everything it
 * will ever touch is touched before its first reply.
 *
 * A "seat" is what one flow of control needs: the process's first thread has
 * one, and so has each thread and each CLONE_VM child it makes.
 */
#include <asm/signal.h>
#include <asm/siginfo.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/uio.h>
#include "abi.h"
#include "channel.h"
#include "sys.h"

enum { PAGE = 4096, SEATS = 9, STACK = 7 * 1024, ALT_STACK = 2 * PAGE };

struct seat {
	uint8_t scratch[PVM_SCRATCH];
	uint8_t alt_stack[ALT_STACK];	/* a signal frame with AVX-512 is 3.5 KB */
	uint8_t stack[STACK];
	struct pvm_frame frame;		/* the one being done */
	volatile uint32_t busy;		/* CLONE_CHILD_CLEARTID zeroes it */
	volatile uint32_t stop_seq;	/* the frame that is to end early */
	uint32_t slot;
	int ready[2];			/* pipe to a child being made */
	struct { uint64_t signal, code, address, left; } fault;
} __attribute__((aligned(PAGE)));

/* Not static: _start names them. */
struct seat seats[SEATS];
void task_main(unsigned long *start) __attribute__((noreturn));
void seat_begin(struct seat *seat) __attribute__((noreturn));
static void seat_serve(struct seat *seat) __attribute__((noreturn));

_Static_assert(sizeof(struct seat) == 8 * PAGE, "a seat is eight pages");
_Static_assert(offsetof(struct seat, frame) == 31 * 1024, "_start's number");

/* The kernel's stack only carries the arguments; the task runs on seat 0's. */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	lea seats + 31 * 1024(%rip), %rsp\n"
	"	call task_main\n");

/* ---- memory accesses that may fault ------------------------------------ */

/*
 * Each returns 0, or 1 when the access got a signal: on_fault() sends any
 * fault between probe_begin and probe_end to probe_failed. They use no stack,
 * so the return address is at its top wherever they stop.
 */
long probe_copy(void *to, const void *from, size_t len);
long probe_load(const void *address);
long probe_rewrite(void *address);
long probe_store(void *address, uint64_t value);
extern const char probe_begin[], probe_end[], probe_failed[];

__asm__("probe_begin:\n"
	"probe_copy:	mov %rdx, %rcx\n"
	"	rep movsb\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"probe_load:	movb (%rdi), %al\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"probe_rewrite:	lock orb $0, (%rdi)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"probe_store:	mov %rsi, (%rdi)\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	"probe_end:\n"
	"probe_failed:	mov $1, %eax\n"
	"	ret\n"
	"signal_return:	mov $15, %eax\n"	/* __NR_rt_sigreturn */
	"	syscall\n");
void signal_return(void);

/* The handlers run on the seat's own alternate stack: that says whose it is. */
static struct seat *seat_of(const void *on_stack)
{
	return &seats[((const uint8_t *)on_stack - (uint8_t *)seats) / sizeof(*seats)];
}

/* A signal that no probe caused kills, as it would without a handler. */
static void die_of(int signal)
{
	struct sigaction by_default = { .sa_handler = SIG_DFL };

	by_default.sa_flags = SA_RESTORER;
	by_default.sa_restorer = signal_return;
	sys(__NR_rt_sigaction, signal, &by_default, 0, sizeof(sigset_t));
	sys(__NR_tgkill, sys(__NR_getpid), sys(__NR_gettid), signal);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	struct sigcontext *at = (void *)&((struct ucontext *)context)->uc_mcontext;
	struct seat *seat = seat_of(&at);

	if (info->si_code <= 0 || at->rip < (uint64_t)probe_begin ||
	    at->rip >= (uint64_t)probe_end)
		return die_of(signal);
	seat->fault.signal = signal;
	seat->fault.code = (uint32_t)info->si_code;
	seat->fault.address = (uint64_t)info->si_addr;
	seat->fault.left = at->rcx;
	at->rip = (uint64_t)probe_failed;
}

static void on_interrupt(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	seat_of(&info)->stop_seq = info->si_int;
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction act = { .sa_handler = (void *)handler };

	act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER;
	act.sa_restorer = signal_return;
	sys(__NR_rt_sigaction, signal, &act, 0, sizeof(sigset_t));
}

static void use_alt_stack(struct seat *seat)
{
	stack_t stack = { .ss_sp = seat->alt_stack, .ss_size = ALT_STACK };

	sys(__NR_sigaltstack, &stack, 0);
}

/* ---- keeping the task's own memory still -------------------------------- */

/* Makes the pages of a seat present and writable without changing a byte: a
 * plain store could undo what another thread stores at that moment. */
static void settle(struct seat *seat)
{
	for (size_t at = 0; at < sizeof(*seat); at += PAGE)
		__asm__ volatile("lock orb $0, %0" : "+m"(seat->scratch[at]));
}

static void settle_text(void)
{
	extern const char __executable_start[], etext[];

	for (const char *at = __executable_start; at < etext; at += PAGE)
		__asm__ volatile("" : : "r"(*(volatile const char *)at));
}

static void settle_all(void)
{
	for (int i = 0; i < SEATS; i++)
		if (seats[i].busy)
			settle(&seats[i]);
}

/* ---- frames -------------------------------------------------------------- */

static void take_rest(int fd, uint8_t *to, size_t len)
{
	while (len) {
		long got = sys(__NR_read, fd, to, len);

		if (got > 0)
			to += got, len -= got;
	}
}

/* PID 1 writes a frame in one go, and its pipe is empty before: one readv()
 * takes header and payload. */
static void take(struct seat *seat)
{
	struct pvm_frame *frame = &seat->frame;
	struct iovec parts[] = { { frame, sizeof(*frame) }, { seat->scratch, PVM_SCRATCH } };
	int fd = channel_down(seat->slot);
	long got;

	do
		got = sys(__NR_readv, fd, parts, 2);
	while (got <= 0);
	if (got < (long)sizeof(*frame)) {
		take_rest(fd, (uint8_t *)frame + got, sizeof(*frame) - got);
		got = sizeof(*frame);
	}
	got -= sizeof(*frame);
	take_rest(fd, seat->scratch + got, frame->payload_len - got);
}

static void reply(struct seat *seat)
{
	struct iovec parts[] = { { &seat->frame, sizeof(seat->frame) },
				 { seat->scratch, seat->frame.payload_len } };
	long put;

	do
		put = sys(__NR_writev, channel_up(seat->slot), parts, 2);
	while (put == -4);				/* EINTR */
}

static void answer(struct seat *seat, int64_t result, size_t payload_len)
{
	seat->frame.result = result;
	seat->frame.payload_len = payload_len;
}

static void answer_fault(struct seat *seat, uint64_t done)
{
	seat->frame.status = PVM_FAULT;
	seat->frame.args[0] = seat->fault.signal;
	seat->frame.args[1] = seat->fault.code;
	seat->frame.args[2] = seat->fault.address;
	seat->frame.args[3] = done;
	answer(seat, -14, 0);				/* EFAULT */
}

static void answer_task(struct seat *asked, struct seat *made, long pid, long tid)
{
	asked->frame.args[0] = pid;
	asked->frame.args[2] = (uint64_t)made->scratch;
	asked->frame.args[3] = PVM_SCRATCH;
	asked->frame.args[4] = tid;
	answer(asked, pid, 0);
}

static int stopped(const struct seat *seat)
{
	return seat->stop_seq == seat->frame.seq;
}

/* ---- operations ---------------------------------------------------------- */

static void do_syscall(struct seat *seat)
{
	const uint64_t *a = seat->frame.args;

	answer(seat, sys(seat->frame.code, a[0], a[1], a[2], a[3], a[4], a[5]),
	       seat->frame.want);
}

static void do_store(struct seat *seat)
{
	size_t len = seat->frame.payload_len;

	if (probe_copy((void *)seat->frame.args[0], seat->scratch, len))
		return answer_fault(seat, len - seat->fault.left);
	answer(seat, len, 0);
}

static void do_load(struct seat *seat)
{
	size_t len = seat->frame.want;

	if (probe_copy(seat->scratch, (void *)seat->frame.args[0], len))
		return answer_fault(seat, len - seat->fault.left);
	answer(seat, len, len);
}

static long touch_one(const struct pvm_frame *frame, uint64_t i)
{
	uint8_t *at = (uint8_t *)frame->args[0] + i * frame->args[2];

	if (frame->code == PVM_TOUCH_READ)
		return probe_load(at);
	if (frame->code == PVM_TOUCH_WRITE)
		return probe_rewrite(at);
	return probe_store(at, frame->args[3] + i * frame->args[4]);
}

static void do_touch(struct seat *seat)
{
	uint64_t i;

	for (i = 0; i < seat->frame.args[1] && !stopped(seat); i++)
		if (touch_one(&seat->frame, i))
			return answer_fault(seat, i);
	answer(seat, i, 0);
}

static void do_write_loop(struct seat *seat)
{
	uint64_t limit = seat->frame.args[2], value = seat->frame.args[1], stores = 0;

	while (!stopped(seat) && (!limit || stores < limit)) {
		if (probe_store((void *)seat->frame.args[0], value++))
			return answer_fault(seat, stores);
		stores++;
	}
	seat->frame.args[0] = value - 1;
	answer(seat, stores, 0);
}

static void do_spin(struct seat *seat)
{
	int64_t rounds = 0;

	while (!stopped(seat))
		rounds++;
	answer(seat, rounds, 0);
}

/* With the signal blocked but inside rt_sigsuspend(), it cannot be missed. */
static void do_pause(struct seat *seat)
{
	sigset_t interrupt = 1UL << (CHANNEL_INTERRUPT - 1), none = 0;

	sys(__NR_rt_sigprocmask, SIG_BLOCK, &interrupt, 0, sizeof(interrupt));
	while (!stopped(seat))
		sys(__NR_rt_sigsuspend, &none, sizeof(none));
	sys(__NR_rt_sigprocmask, SIG_UNBLOCK, &interrupt, 0, sizeof(interrupt));
	answer(seat, 0, 0);
}

/* A thread leaves alone, and says so; a process takes its threads along. PID 1
 * sees the end itself and answers then. */
static void do_exit(struct seat *seat)
{
	int thread = sys(__NR_gettid) != sys(__NR_getpid);

	if (thread) {
		seat->frame.status = PVM_DIED;
		answer(seat, (seat->frame.code & 0xff) << 8, 0);
		reply(seat);
	}
	sys(thread ? __NR_exit : __NR_exit_group, seat->frame.code);
}

/* ---- new processes and threads ------------------------------------------- */

static struct seat *new_seat(void)
{
	for (int i = 0; i < SEATS; i++)
		if (__sync_bool_compare_and_swap(&seats[i].busy, 0, 1))
			return &seats[i];
	return NULL;
}

/* The child begins on its own stack and never comes back here. */
static long clone_onto(struct seat *seat, uint64_t flags)
{
	register volatile uint32_t *child_tid __asm__("r10") = &seat->busy;
	long ret;

	__asm__ volatile("syscall\n"
			 "	test %%rax, %%rax\n"
			 "	jnz 1f\n"
			 "	xor %%ebp, %%ebp\n"
			 "	mov %%rbx, %%rdi\n"
			 "	call seat_begin\n"
			 "1:"
			 : "=a"(ret)
			 : "0"(__NR_clone), "D"(flags | CLONE_CHILD_CLEARTID),
			   "S"(seat->stack + STACK), "d"(0), "r"(child_tid), "b"(seat)
			 : "rcx", "r11", "memory");
	return ret;
}

/* A fork: the child goes on in its copy of this seat, the only one in use. */
static long clone_copy(struct seat *seat, uint64_t flags)
{
	long pid = sys(__NR_clone, flags, 0, 0, 0, 0);

	if (pid != 0)
		return pid;
	for (int i = 0; i < SEATS; i++)
		if (&seats[i] != seat)
			seats[i].busy = 0;
	seat_begin(seat);
}

/*
 * The child's first steps, from the frame its parent was given. The byte in
 * the pipe says that it has set itself up. A forked child writes to its copies
 * while the parent still maps the pages: so the parent keeps its own page
 * frames, and none of the task's own pages stay shared between the two.
 */
void seat_begin(struct seat *seat)
{
	seat->slot = seat->frame.args[1];
	sys(__NR_prctl, PR_SET_NAME, seat->scratch);
	use_alt_stack(seat);
	settle_all();
	sys(__NR_write, seat->ready[1], "", 1);
	if (!(seat->frame.code & CLONE_FILES)) {
		sys(__NR_close, seat->ready[0]);
		sys(__NR_close, seat->ready[1]);
	}
	seat_serve(seat);
}

/* Ends with the pipe's byte, or its end of file if the child died early. */
static void await_child(const struct seat *seat, int shares_files)
{
	char byte;

	if (!shares_files)
		sys(__NR_close, seat->ready[1]);
	sys(__NR_read, seat->ready[0], &byte, 1);
	if (shares_files)
		sys(__NR_close, seat->ready[1]);
}

/* The seat of a child that shares this address space. */
static struct seat *prepare_seat(const struct seat *parent)
{
	struct seat *child = new_seat();

	if (!child)
		return NULL;
	settle(child);
	child->frame = parent->frame;
	child->ready[0] = parent->ready[0];
	child->ready[1] = parent->ready[1];
	memcpy(child->scratch, parent->scratch, PVM_NAME);
	return child;
}

static long clone_any(struct seat *seat, struct seat *child, uint64_t flags)
{
	long tid = flags & CLONE_VM ? clone_onto(child, flags) : clone_copy(seat, flags);

	if (tid > 0)
		await_child(seat, (flags & CLONE_FILES) != 0);
	else
		sys(__NR_close, seat->ready[1]);
	sys(__NR_close, seat->ready[0]);
	return tid;
}

/* PID 1 has put the slot of the task to be made into args[1]. */
static void do_clone(struct seat *seat)
{
	uint64_t flags = seat->frame.code;
	struct seat *child = seat;
	long tid = sys(__NR_pipe2, seat->ready, 0);

	if (tid < 0)
		return answer(seat, tid, 0);
	seat->scratch[PVM_NAME - 1] = 0;
	if (flags & CLONE_VM)
		child = prepare_seat(seat);
	tid = child ? clone_any(seat, child, flags) : -11;	/* EAGAIN */
	settle_all();
	if (tid > 0)
		return answer_task(seat, child, flags & CLONE_THREAD ?
				   sys(__NR_getpid) : tid, tid);
	if (child && child != seat)
		child->busy = 0;
	answer(seat, tid, 0);
}

/* ---- main ---------------------------------------------------------------- */

static void perform(struct seat *seat)
{
	seat->frame.status = PVM_OK;
	switch (seat->frame.op) {
	case PVM_SYSCALL:	return do_syscall(seat);
	case PVM_STORE:		return do_store(seat);
	case PVM_LOAD:		return do_load(seat);
	case PVM_TOUCH:		return do_touch(seat);
	case PVM_CLONE:		return do_clone(seat);
	case PVM_EXIT:		return do_exit(seat);
	case PVM_WRITE_LOOP:	return do_write_loop(seat);
	case PVM_SPIN:		return do_spin(seat);
	case PVM_PAUSE:		return do_pause(seat);
	}
	seat->frame.status = PVM_BAD;
	answer(seat, 0, 0);
}

static void seat_serve(struct seat *seat)
{
	for (;;) {
		take(seat);
		perform(seat);
		reply(seat);
	}
}

/* start: argc, then argv, as the kernel lays them down. The first reply goes
 * out unasked: it answers the PVM_SPAWN that PID 1 has pending for the slot. */
void task_main(unsigned long *start)
{
	const char *slot = start[0] > 1 ? (const char *)start[2] : "0";
	struct seat *seat = &seats[0];

	seat->busy = 1;
	seat->slot = text_number(&slot);
	sys(__NR_prctl, PR_SET_NAME, start[0] > 2 ? (const char *)start[3] : "task");
	use_alt_stack(seat);
	handle(SIGSEGV, on_fault);
	handle(SIGBUS, on_fault);
	handle(CHANNEL_INTERRUPT, on_interrupt);
	settle_text();
	settle_all();
	seat->frame.args[1] = seat->slot;
	answer_task(seat, seat, sys(__NR_getpid), sys(__NR_gettid));
	seat->frame.magic = PVM_MAGIC;
	reply(seat);
	seat_serve(seat);
}
