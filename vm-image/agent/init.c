// SPDX-License-Identifier: MIT
/*
 * PID 1: takes frames from the host, does what is its own to do (files,
 * swap, starting and killing tasks), and passes the rest on to the tasks.
 *
 *     init            in the guest, over the virtio port PORT_NAME
 *     init --fd N     on any Linux, over an open stream socket; the program
 *                     for tasks is $PVMLAB_TASK or "task" beside init
 *
 * One thread, one ppoll(). It never waits for a task: a task that blocks, or
 * dies in the middle of an operation, concerns its own slot only. It does
 * wait for files: reading /proc/PID/maps of a task whose mmap lock is stuck
 * would stick PID 1 too (look from outside instead).
 */
#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <linux/utsname.h>
#include <linux/wait.h>
#include "abi.h"
#include "channel.h"
#include "sys.h"

#define PORT_NAME "org.pvmlab.agent"

enum {
	PAGE = 4096, NAME_MAX = 256, RETRY_MS_MAX = 8,
	E_NOENT = -2, E_AGAIN = -11, E_INVAL = -22, E_INTR = -4,
	NODE_IS_CHAR = S_IFCHR, NODE_IS_BLOCK = S_IFBLK,
	PIDFD_OF_THREAD = O_EXCL,	/* PIDFD_THREAD, linux/pidfd.h since 6.9 */
	EXIT_NO_CGROUP = 125, EXIT_NO_OUTPUT = 126, EXIT_NO_PROGRAM = 127,
};

struct buffer {
	struct pvm_frame frame;
	uint8_t payload[PVM_CHUNK];
};

struct slot {
	uint32_t id;		/* 0: never used */
	enum { UNUSED, RESERVED, ALIVE, DEAD, LOST } state;
	int pid, tid, pidfd;
	int mine;		/* PID 1's own child: SIGCHLD tells of its end */
	int pending;		/* `asked` has not been answered */
	struct pvm_frame asked;
	uint32_t awaiter;	/* seq of a PVM_AWAIT, or 0 */
	int64_t status;		/* once dead: wait status, or -1 unknown */
};

static struct buffer in, out;
static size_t in_len;
static struct slot slots[PVM_SLOTS];
static int to_task[PVM_SLOTS], from_task[PVM_SLOTS];
static uint32_t last_id = PVM_SLOTS - 1;
static int port = -1, retry_ms, on_host;
static const char *task_path = "/task";

/*
 * PID 1 stays on the first CPU, and tasks begin there: a frame then costs two
 * switches on one CPU, where waking another, idle one costs an emulated machine
 * up to a few milliseconds. What shall run at the same time is placed on
 * another CPU by the host (PVM_PLACE); a task that is stuck in the kernel there
 * leaves PID 1 its own.
 */
static long run_on(int tid, uint64_t cpus)
{
	return sys(__NR_sched_setaffinity, tid, sizeof(cpus), &cpus);
}

/* ---- files --------------------------------------------------------------- */

/* Whole small file as text; returns its length or -errno. */
static long read_text(const char *path, char *text, size_t size)
{
	long fd = sys(__NR_open, path, O_RDONLY | O_CLOEXEC), got;

	if (fd < 0)
		return fd;
	got = sys(__NR_read, fd, text, size - 1);
	sys(__NR_close, fd);
	text[got > 0 ? got : 0] = 0;
	return got;
}

/* A new file is made only where there is none: on sysfs and procfs the errno
 * of a misspelt name stays ENOENT. */
static long open_to_write(const char *path, uint64_t offset, uint32_t mode)
{
	int how = O_WRONLY | O_CLOEXEC | (offset ? 0 : O_TRUNC);
	long fd = sys(__NR_open, path, how);

	if (fd != E_NOENT)
		return fd;
	fd = sys(__NR_open, path, how | O_CREAT, mode);
	return fd < 0 ? E_NOENT : fd;
}

static long write_file(const char *path, uint64_t offset, uint32_t mode,
		       const void *bytes, size_t len)
{
	long fd = open_to_write(path, offset, mode), put;

	if (fd < 0)
		return fd;
	put = offset ? sys(__NR_lseek, fd, offset, 0) : 0;
	if (put >= 0)
		put = sys(__NR_write, fd, bytes, len);
	sys(__NR_close, fd);
	return put;
}

/* procfs hands out its text in pieces: reads on until `len` or the end. */
static long read_file(const char *path, uint64_t offset, uint8_t *to, size_t len)
{
	long fd = sys(__NR_open, path, O_RDONLY | O_CLOEXEC), got = 0;
	size_t have = 0;

	if (fd < 0)
		return fd;
	if (offset)
		got = sys(__NR_lseek, fd, offset, 0);
	while (got >= 0 && have < len) {
		got = sys(__NR_read, fd, to + have, len - have);
		if (got <= 0)
			break;
		have += got;
	}
	sys(__NR_close, fd);
	return have || got >= 0 ? (long)have : got;
}

/* Opens /dev/<name>; where nothing made the node, makes it from what sysfs
 * says in <dir>/<name>/dev ("major:minor"). */
static long open_node(const char *dir, const char *name, int type, int how)
{
	char node[NAME_MAX + 8], path[2 * NAME_MAX], number[24];
	const char *at = number;
	unsigned long major;
	long fd;

	text_put(text_put(node, "/dev/"), name);
	fd = sys(__NR_open, node, how);
	if (fd != E_NOENT)
		return fd;
	text_put(text_put(text_put(text_put(path, dir), "/"), name), "/dev");
	if (read_text(path, number, sizeof(number)) <= 0)
		return fd;
	major = text_number(&at);
	at++;
	sys(__NR_mknod, node, type | 0600, major << 8 | text_number(&at));
	return sys(__NR_open, node, how);
}

/* ---- the port ------------------------------------------------------------ */

struct entry {			/* struct linux_dirent64, fs/readdir.c */
	uint64_t ino, off;
	uint16_t len;
	uint8_t type;
	char name[];
};

static long open_port_if(const char *entry)
{
	char path[2 * NAME_MAX], name[sizeof(PORT_NAME) + 1];

	text_put(text_put(text_put(path, "/sys/class/virtio-ports/"), entry), "/name");
	if (read_text(path, name, sizeof(name)) < (long)sizeof(PORT_NAME) - 1)
		return -1;
	name[sizeof(PORT_NAME) - 1] = 0;
	if (!text_same(name, PORT_NAME))
		return -1;
	return open_node("/sys/class/virtio-ports", entry, NODE_IS_CHAR, O_RDWR | O_CLOEXEC);
}

/* The host names a port some time after the driver has found it. */
static int find_port(void)
{
	long dir = sys(__NR_open, "/sys/class/virtio-ports", O_RDONLY | O_CLOEXEC);
	static char entries[2048] __attribute__((aligned(8)));
	long len, fd = -1;

	if (dir < 0)
		return -1;
	len = sys(__NR_getdents64, dir, entries, sizeof(entries));
	for (long at = 0; at < len && fd < 0; at += ((struct entry *)&entries[at])->len)
		fd = open_port_if(((struct entry *)&entries[at])->name);
	sys(__NR_close, dir);
	return fd;
}

static void send_out(void)
{
	const uint8_t *at = (uint8_t *)&out;
	size_t left = sizeof(out.frame) + out.frame.payload_len;

	while (left) {
		long put = sys(__NR_write, port, at, left);

		if (put == E_INTR)
			continue;
		if (put <= 0)
			return;
		at += put, left -= put;
	}
}

/* Answers `asked`; a payload, if any, is in out.payload already. */
static void answer(const struct pvm_frame *asked, uint32_t status, int64_t result,
		   size_t payload_len)
{
	out.frame = *asked;
	out.frame.status = status;
	out.frame.result = result;
	out.frame.payload_len = payload_len;
	send_out();
}

/* ---- slots --------------------------------------------------------------- */

static struct slot *slot_of(uint32_t id)
{
	struct slot *slot = &slots[id % PVM_SLOTS];

	return id && slot->id == id ? slot : NULL;
}

/* What a task that died left in its pipes, read or not, is nobody's now. */
static void drain(int fd)
{
	int waiting = 0;

	while (sys(__NR_ioctl, fd, FIONREAD, &waiting) == 0 && waiting > 0)
		sys(__NR_read, fd, out.payload, waiting);
}

/* In turn, so that how a task ended can be asked for as long as possible. */
static struct slot *reserve_slot(void)
{
	for (int tries = 0; tries < PVM_SLOTS; tries++) {
		struct slot *slot = &slots[++last_id % PVM_SLOTS];

		if (slot->state != UNUSED && slot->state != DEAD)
			continue;
		*slot = (struct slot){ .id = last_id, .state = RESERVED, .pidfd = -1 };
		drain(channel_down(last_id));
		drain(from_task[last_id % PVM_SLOTS]);
		return slot;
	}
	return NULL;
}

static void slot_is_alive(struct slot *slot, int pid, int tid)
{
	slot->state = ALIVE;
	slot->pid = pid;
	slot->tid = tid;
	slot->pidfd = sys(__NR_pidfd_open, tid, tid == pid ? 0 : PIDFD_OF_THREAD);
}

/* A half-made child may exist and listen on that slot: it is not used again. */
static void give_up_clone(const struct slot *slot)
{
	struct slot *made = slot_of(slot->asked.args[1]);

	if (made && made->state == RESERVED)
		made->state = LOST;
}

static void slot_died(struct slot *slot, int64_t status)
{
	struct pvm_frame awaiter = { .magic = PVM_MAGIC, .seq = slot->awaiter,
				     .slot = slot->id, .op = PVM_AWAIT };

	slot->state = DEAD;
	slot->status = status;
	if (slot->pidfd >= 0)
		sys(__NR_close, slot->pidfd);
	if (slot->pending) {
		slot->pending = 0;
		if (slot->asked.op == PVM_CLONE)
			give_up_clone(slot);
		answer(&slot->asked, PVM_DIED, status, 0);
	}
	if (slot->awaiter)
		answer(&awaiter, PVM_DIED, status, 0);
}

static void process_died(int pid, int64_t status)
{
	for (struct slot *slot = slots; slot < &slots[PVM_SLOTS]; slot++)
		if (slot->state == ALIVE && slot->pid == pid)
			slot_died(slot, status);
}

/* Only PID 1's own children, and those left to it: a task's children stay
 * zombies until the task waits for them. */
static void reap(void)
{
	int status;
	long pid;

	while ((pid = sys(__NR_wait4, -1, &status, WNOHANG | __WALL)) > 0)
		process_died(pid, status);
}

/* exit_code is the last field of /proc/PID/stat (fs/proc/array.c); a zombie
 * still has it. */
static int64_t zombie_status(int pid)
{
	char path[32], text[1024];
	long len, at;
	const char *last;

	text_put(text_put_number(text_put(path, "/proc/"), pid), "/stat");
	len = read_text(path, text, sizeof(text));
	for (at = len; at > 0 && text[at - 1] != ' ';)
		at--;
	last = text + at;
	return len > 0 ? (int64_t)text_number(&last) : -1;
}

/* The slot's pidfd is readable: the process, or this one thread, is over. */
static void pidfd_fired(struct slot *slot)
{
	reap();
	if (slot->state != ALIVE)
		return;
	if (slot->tid == slot->pid)
		process_died(slot->pid, zombie_status(slot->pid));
	else
		slot_died(slot, slot->status);
}

/* ---- replies of tasks ---------------------------------------------------- */

/* Reads `len` bytes, or fails when the task dies having sent fewer. */
static int read_reply(struct slot *slot, void *to, size_t len)
{
	int fd = from_task[slot->id % PVM_SLOTS];
	struct pollfd both[] = { { .fd = fd, .events = POLLIN },
				 { .fd = slot->pidfd, .events = POLLIN } };
	size_t have = 0;

	while (have < len) {
		long got = sys(__NR_read, fd, (char *)to + have, len - have);

		if (got > 0)
			have += got;
		else if (got == E_AGAIN && both[1].revents)
			return 0;
		else if (got == E_AGAIN)
			sys(__NR_poll, both, 2, -1);
		else if (got != E_INTR)
			return 0;
	}
	return 1;
}

static void clone_done(const struct pvm_frame *frame, uint32_t id)
{
	struct slot *made = slot_of(id);

	if (frame->status == PVM_OK && frame->result > 0)
		slot_is_alive(made, frame->args[0], frame->args[4]);
	else
		made->state = DEAD;
}

/* It is about to exit; where the kernel has pidfds of threads (6.9), that is
 * waited for. */
static void thread_leaves(struct slot *slot, int64_t status)
{
	slot->status = status;
	if (slot->pidfd < 0)
		slot_died(slot, status);
}

/* The reply was asked for by slot->asked, and carries that frame's seq: the
 * first reply of a new task answers the PVM_SPAWN. */
static void task_replied(struct slot *slot)
{
	if (!read_reply(slot, &out.frame, sizeof(out.frame)) ||
	    out.frame.payload_len > PVM_SCRATCH ||
	    !read_reply(slot, out.payload, out.frame.payload_len))
		return;
	if (out.frame.status == PVM_DIED)
		return thread_leaves(slot, out.frame.result);
	if (!slot->pending)
		return;
	slot->pending = 0;
	if (slot->asked.op == PVM_CLONE)
		clone_done(&out.frame, slot->asked.args[1]);
	out.frame.seq = slot->asked.seq;
	out.frame.op = slot->asked.op;
	out.frame.slot = slot->asked.slot;
	out.frame.magic = PVM_MAGIC;
	send_out();
}

/* ---- starting tasks ------------------------------------------------------ */

/* A payload of strings, one behind the other: the next one, or "". */
static const char *next_text(const char **at, const char *end)
{
	const char *text = *at;

	if (text >= end)
		return "";
	*at += text_len(text) + 1;
	return text;
}

static void join_cgroup(const char *directory)
{
	char path[2 * NAME_MAX];

	text_put(text_put(path, directory), "/cgroup.procs");
	if (write_file(path, 0, 0, "0", 1) < 0)
		sys(__NR_exit_group, EXIT_NO_CGROUP);
}

static void exec_task(uint32_t id, const char *name, const char *cgroup)
{
	char number[24];
	const char *argv[] = { task_path, number, name, NULL };
	const char *none[] = { NULL };

	text_put_number(number, id);
	if (cgroup[0])
		join_cgroup(cgroup);
	sys(__NR_execve, task_path, argv, none);
	sys(__NR_exit_group, EXIT_NO_PROGRAM);
}

static void exec_program(const char *program, const char *output)
{
	const char *argv[] = { program, NULL };
	const char *none[] = { "PATH=/bin:/sbin", NULL };
	long fd = sys(__NR_open, output, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0)
		sys(__NR_exit_group, EXIT_NO_OUTPUT);
	sys(__NR_dup2, fd, 1);
	sys(__NR_dup2, fd, 2);
	run_on(0, ~0UL);
	sys(__NR_execve, program, argv, none);
	sys(__NR_exit_group, EXIT_NO_PROGRAM);
}

static void child_begins(void)
{
	sigset_t none = 0;

	sys(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof(none));
	if (on_host)
		sys(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
}

/* PVM_SPAWN and PVM_RUN; answered by the task's first reply, or its death. */
static void start(const struct pvm_frame *frame, const char *payload)
{
	const char *end = payload + frame->payload_len;
	const char *first = next_text(&payload, end), *second = next_text(&payload, end);
	struct slot *slot = reserve_slot();
	long pid = slot ? sys(__NR_fork) : E_AGAIN;

	if (pid == 0) {
		child_begins();
		if (frame->op == PVM_RUN)
			exec_program(first, second);
		exec_task(slot->id, first, second);
	}
	if (pid < 0) {
		if (slot)
			slot->state = DEAD;
		return answer(frame, PVM_OK, pid, 0);
	}
	slot_is_alive(slot, pid, pid);
	slot->mine = 1;
	slot->asked = *frame;
	slot->pending = 1;
}

/* ---- frames from the host ------------------------------------------------ */

static void greet(const struct pvm_frame *frame)
{
	struct new_utsname names;

	sys(__NR_uname, &names);
	answer(frame, PVM_OK, PVM_ABI,
	       text_put((char *)out.payload, names.release) - (char *)out.payload);
}

static long send_signal(const struct slot *slot, int signal)
{
	if (slot->pidfd >= 0)
		return sys(__NR_pidfd_send_signal, slot->pidfd, signal, 0, 0);
	return sys(__NR_tgkill, slot->pid, slot->tid, signal);
}

/* Carries the seq to be ended, so that a late one ends nothing else. */
static long interrupt(const struct slot *slot, uint32_t seq)
{
	struct { int signo, error, code, pad, pid, uid, value, rest[25]; } info = {
		.signo = CHANNEL_INTERRUPT, .code = -1 /* SI_QUEUE */, .value = seq,
	};

	_Static_assert(sizeof(info) == 128, "siginfo_t is 128 bytes");
	if (!slot->pending || slot->asked.seq != seq)
		return 0;
	return sys(__NR_rt_tgsigqueueinfo, slot->pid, slot->tid, CHANNEL_INTERRUPT, &info);
}

static void about_slot(const struct pvm_frame *frame)
{
	struct slot *slot = slot_of(frame->slot);

	if (!slot || slot->state == UNUSED || slot->state == RESERVED)
		return answer(frame, PVM_NO_TASK, 0, 0);
	if (slot->state != ALIVE)
		return answer(frame, PVM_DIED, slot->status, 0);
	if (frame->op == PVM_KILL)
		return answer(frame, PVM_OK, send_signal(slot, frame->code), 0);
	if (frame->op == PVM_INTERRUPT)
		return answer(frame, PVM_OK, interrupt(slot, frame->args[0]), 0);
	if (frame->op == PVM_PLACE)
		return answer(frame, PVM_OK, run_on(slot->tid, frame->args[0]), 0);
	if (frame->op == PVM_AWAIT)
		slot->awaiter = frame->seq;
	else
		answer(frame, PVM_OK, slot->pid, 0);
}

/* Whatever a task shall do. PID 1's end never blocks: the pipe is empty, since
 * the task answers each frame before it gets another. */
static void forward(struct pvm_frame *frame)
{
	struct slot *slot = slot_of(frame->slot), *made;

	if (!slot || slot->state != ALIVE)
		return about_slot(frame);
	if (slot->pending)
		return answer(frame, PVM_BUSY, slot->asked.seq, 0);
	if (frame->payload_len > PVM_SCRATCH || frame->want > PVM_SCRATCH)
		return answer(frame, PVM_BAD, 0, 0);
	if (frame->op == PVM_CLONE) {
		made = reserve_slot();
		if (!made)
			return answer(frame, PVM_OK, E_AGAIN, 0);
		frame->args[1] = made->id;
	}
	slot->asked = *frame;
	slot->pending = 1;
	sys(__NR_write, to_task[slot->id % PVM_SLOTS], frame,
	    sizeof(*frame) + frame->payload_len);
}

static void file_read(const struct pvm_frame *frame, const char *path)
{
	size_t len = frame->want < PVM_CHUNK ? frame->want : PVM_CHUNK;
	long got = read_file(path, frame->args[0], out.payload, len);

	answer(frame, PVM_OK, got, got > 0 ? got : 0);
}

static void file_write(const struct pvm_frame *frame, const char *path)
{
	size_t skip = text_len(path) + 1;

	answer(frame, PVM_OK, write_file(path, frame->args[0], frame->args[1], path + skip,
					 frame->payload_len - skip), 0);
}

/* The header that mkswap writes (union swap_header, linux/swap.h): at 1024
 * version, last page, no bad pages; the magic at the end of the page. */
static long write_swap_header(int fd, uint64_t bytes)
{
	static uint32_t header[PAGE / 4];
	long put;

	header[256] = 1;
	header[257] = bytes / PAGE - 1;
	memcpy((char *)header + PAGE - 10, "SWAPSPACE2", 10);
	put = sys(__NR_write, fd, header, PAGE);
	return put == PAGE ? 0 : put < 0 ? put : E_INVAL;
}

static long zram_swap(const char *name, uint64_t bytes, const char **step)
{
	char path[2 * NAME_MAX], size[24];
	long fd, ret;

	*step = "disksize";
	text_put(text_put(text_put(path, "/sys/block/"), name), "/disksize");
	ret = write_file(path, 0, 0, size, text_put_number(size, bytes) - size);
	if (ret < 0)
		return ret;
	*step = "open";
	fd = open_node("/sys/block", name, NODE_IS_BLOCK, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fd;
	*step = "header";
	ret = write_swap_header(fd, bytes);
	sys(__NR_close, fd);
	if (ret < 0)
		return ret;
	*step = "swapon";
	text_put(text_put(path, "/dev/"), name);
	return sys(__NR_swapon, path, 0);
}

static void swap_on_zram(const struct pvm_frame *frame, const char *name)
{
	const char *step;
	long ret = zram_swap(name, frame->args[0], &step);

	answer(frame, PVM_OK, ret, text_put((char *)out.payload, step) - (char *)out.payload);
}

/* Every string in a payload has its end inside it: the last byte is zeroed
 * where a string is all there is; a path before bytes is checked. */
static int names_a_path(const struct pvm_frame *frame, const char *payload)
{
	for (uint32_t i = 0; i < frame->payload_len; i++)
		if (!payload[i])
			return i < PAGE;
	return 0;
}

static void serve_named(const struct pvm_frame *frame, const char *payload)
{
	if (!names_a_path(frame, payload))
		return answer(frame, PVM_BAD, 0, 0);
	switch (frame->op) {
	case PVM_SPAWN:		return start(frame, payload);
	case PVM_RUN:		return start(frame, payload);
	case PVM_READ_FILE:	return file_read(frame, payload);
	case PVM_WRITE_FILE:	return file_write(frame, payload);
	case PVM_MKDIR:		return answer(frame, PVM_OK, sys(__NR_mkdir, payload,
								 frame->args[0]), 0);
	case PVM_ZRAM_SWAP:	return swap_on_zram(frame, payload);
	}
	answer(frame, PVM_BAD, 0, 0);
}

static void serve(struct pvm_frame *frame, const char *payload)
{
	if (frame->op >= PVM_SYSCALL)
		return forward(frame);
	switch (frame->op) {
	case PVM_HELLO:		return greet(frame);
	case PVM_PING:		return answer(frame, PVM_OK, 0, 0);
	case PVM_KILL:
	case PVM_STATUS:
	case PVM_AWAIT:
	case PVM_PLACE:
	case PVM_INTERRUPT:	return about_slot(frame);
	}
	serve_named(frame, payload);
}

/* The length of the frame at the buffer's start, 0 while it is incomplete, or
 * -1 where no frame begins: bytes are then skipped until one does. */
static long whole_frame(void)
{
	size_t len = sizeof(in.frame) + in.frame.payload_len;

	if (in_len < sizeof(in.frame))
		return 0;
	if (in.frame.magic != PVM_MAGIC || in.frame.payload_len > PVM_CHUNK)
		return -1;
	return in_len < len ? 0 : (long)len;
}

static void serve_input(void)
{
	long len;

	while ((len = whole_frame()) != 0) {
		if (len > 0)
			serve(&in.frame, (char *)in.payload);
		else
			len = 1;
		in_len -= len;
		memcpy(&in, (char *)&in + len, in_len);
	}
}

/* Without a host at the other end a read returns 0 or an error at once, and
 * poll() does not wait: then look again after some milliseconds. */
static void port_failed(long got)
{
	retry_ms = retry_ms ? 2 * retry_ms : 1;
	if (retry_ms > RETRY_MS_MAX)
		retry_ms = RETRY_MS_MAX;
	if (got == 0)
		return;
	sys(__NR_close, port);
	port = -1;
}

/* read() must not wait where nothing came yet but the host is there again. */
static int port_has_news(int revents)
{
	struct pollfd now = { .fd = port, .events = POLLIN };

	if (!retry_ms || port < 0)
		return revents;
	sys(__NR_poll, &now, 1, 0);
	if (!now.revents)
		retry_ms = 0;
	return now.revents;
}

static void read_port(void)
{
	long got = sys(__NR_read, port, (char *)&in + in_len, sizeof(in) - in_len);

	if (got == E_INTR)
		return;
	if (got <= 0)
		return port_failed(got);
	retry_ms = 0;
	in_len += got;
	serve_input();
}

/* ---- the loop ------------------------------------------------------------ */

static void nothing(int signal)
{
	(void)signal;
}

__asm__("signal_return:	mov $15, %eax\n"	/* __NR_rt_sigreturn */
	"	syscall\n");
void signal_return(void);

/* A handler that does nothing ends ppoll(), and execve() forgets it. */
static void wake_on(int signal)
{
	struct sigaction act = { .sa_handler = nothing };

	act.sa_flags = SA_RESTORER;
	act.sa_restorer = signal_return;
	sys(__NR_rt_sigaction, signal, &act, 0, sizeof(sigset_t));
}

/* Takes SIGCHLD only while it waits: none is lost in between. */
static long wait_for_events(struct pollfd *fds, int count)
{
	struct __kernel_timespec pause = { .tv_nsec = retry_ms * 1000000L };
	sigset_t none = 0;

	return sys(__NR_ppoll, fds, count, retry_ms ? &pause : NULL, &none, sizeof(none));
}

/* What a slot has said counts before its death. */
static void slot_events(struct slot *slot, const struct pollfd *said,
			const struct pollfd *died)
{
	if (slot->state == ALIVE && said->revents)
		task_replied(slot);
	if (slot->state == ALIVE && died->revents)
		pidfd_fired(slot);
}

/* An idle task of PID 1's own is not polled for: it has nothing to say, and
 * each descriptor makes each call of every task slower. */
static void turn(void)
{
	static struct pollfd fds[1 + 2 * PVM_SLOTS];
	static struct slot *whose[PVM_SLOTS];
	int count = 0;

	fds[0] = (struct pollfd){ .fd = retry_ms ? -1 : port, .events = POLLIN };
	for (struct slot *slot = slots; slot < &slots[PVM_SLOTS]; slot++) {
		if (slot->state != ALIVE || (slot->mine && !slot->pending))
			continue;
		fds[1 + 2 * count] = (struct pollfd){ .fd = from_task[slot - slots],
						      .events = POLLIN };
		fds[2 + 2 * count] = (struct pollfd){ .fd = slot->mine ? -1 : slot->pidfd,
						      .events = POLLIN };
		whose[count++] = slot;
	}
	if (wait_for_events(fds, 1 + 2 * count) < 0)
		return reap();
	for (int i = 0; i < count; i++)
		slot_events(whose[i], &fds[1 + 2 * i], &fds[2 + 2 * i]);
	if (port < 0)
		port = find_port();
	else if (port_has_news(fds[0].revents))
		read_port();
}

/* ---- start --------------------------------------------------------------- */

static void mount_all(void)
{
	static const struct { const char *type, *at; } mounts[] = {
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "devtmpfs", "/dev" },
		{ "tmpfs", "/tmp" }, { "cgroup2", "/sys/fs/cgroup" },
		{ "debugfs", "/sys/kernel/debug" },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		sys(__NR_mkdir, mounts[i].at, 0755);
		sys(__NR_mount, mounts[i].type, mounts[i].at, mounts[i].type, 0, 0);
	}
}

static void set(const char *path, const char *value)
{
	int fd = sys(__NR_open, path, O_WRONLY);

	sys(__NR_write, fd, value, text_len(value));
	sys(__NR_close, fd);
}

/* With less than 512 MiB of RAM the kernel starts with huge pages off (hugepage_init(), mm/huge_memory.c). */
static void usual_huge_pages(void)
{
	set("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	set("/sys/kernel/mm/transparent_hugepage/defrag", "madvise");
	set("/sys/kernel/mm/transparent_hugepage/use_zero_page", "1");
}

static void use_guest(void)
{
	mount_all();
	usual_huge_pages();
	run_on(0, 1);
}

/* The ends of the tasks go to their fixed numbers and pass through execve();
 * PID 1's own do not, and the one it reads never blocks. */
static void make_channel(uint32_t slot)
{
	int down[2], up[2];

	sys(__NR_pipe2, down, O_CLOEXEC);
	sys(__NR_pipe2, up, O_CLOEXEC);
	sys(__NR_dup2, down[0], channel_down(slot));
	sys(__NR_dup2, up[1], channel_up(slot));
	sys(__NR_close, down[0]);
	sys(__NR_close, up[1]);
	sys(__NR_fcntl, up[0], F_SETFL, O_NONBLOCK);
	to_task[slot] = down[1];
	from_task[slot] = up[0];
}

static void hold_signals(void)
{
	sigset_t child = 1UL << (SIGCHLD - 1);

	wake_on(SIGCHLD);
	wake_on(SIGPIPE);
	sys(__NR_rt_sigprocmask, SIG_BLOCK, &child, 0, sizeof(child));
}

static const char *from_environment(char **envp, const char *name)
{
	size_t len = text_len(name);

	for (; *envp; envp++) {
		size_t i = 0;

		while (i < len && (*envp)[i] == name[i])
			i++;
		if (i == len)
			return *envp + len;
	}
	return NULL;
}

static void use_host(char **argv, char **envp)
{
	static char beside[PAGE + 8];
	const char *number = argv[2], *path = from_environment(envp, "PVMLAB_TASK=");
	char *end = text_put(beside, argv[0]);

	while (end > beside && end[-1] != '/')
		end--;
	text_put(end, "task");
	task_path = path ? path : beside;
	port = text_number(&number);
	on_host = 1;
	sys(__NR_fcntl, port, F_SETFD, FD_CLOEXEC);
	sys(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1);
}

/* The other end has closed: nothing that was started stays behind. */
static void leave_host(void)
{
	for (struct slot *slot = slots; slot < &slots[PVM_SLOTS]; slot++)
		if (slot->state == ALIVE)
			sys(__NR_kill, slot->pid, SIGKILL);
	sys(__NR_exit_group, 0);
}

void init_main(unsigned long *start_of_stack) __attribute__((noreturn));

void init_main(unsigned long *start_of_stack)
{
	unsigned long argc = start_of_stack[0];
	char **argv = (char **)&start_of_stack[1], **envp = argv + argc + 1;

	if (argc > 2 && text_same(argv[1], "--fd"))
		use_host(argv, envp);
	else
		use_guest();
	hold_signals();
	for (uint32_t slot = 0; slot < PVM_SLOTS; slot++)
		make_channel(slot);
	if (!on_host) {
		port = find_port();
		retry_ms = port < 0;
	}
	for (;;) {
		turn();
		if (on_host && (port < 0 || retry_ms))
			leave_host();
	}
}

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call init_main\n");
