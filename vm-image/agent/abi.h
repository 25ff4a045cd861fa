/* SPDX-License-Identifier: MIT */
/*
 * What the library and the agent say to each other, declared once.
 *
 * The agent includes this file and the library parses it with cffi, so it
 * holds nothing but sized structs and enums. Lines that begin with '#' are for
 * the C compiler only. Both ends are little-endian x86-64.
 *
 * One request frame goes down, one reply frame with the same seq comes up.
 * A task does one thing at a time; different tasks do theirs side by side, so
 * replies come in any order.
 */
#ifndef PVM_ABI_H
#define PVM_ABI_H
#include <stdint.h>

enum pvm_limits {
	PVM_MAGIC = 0x314d5650,		/* "PVM1" on the wire */
	PVM_ABI = 1,
	PVM_ARGS = 6,
	PVM_SLOTS = 64,			/* tasks and threads alive at once */
	PVM_SCRATCH = 16384,		/* bytes a task's payload may have */
	PVM_CHUNK = 1048576,		/* bytes a file operation may carry */
	PVM_NAME = 16,			/* TASK_COMM_LEN, with the NUL */
};

struct pvm_frame {
	uint32_t magic;
	uint32_t seq;			/* chosen by the host, echoed */
	uint32_t slot;			/* 0: PID 1 itself, else a task's id */
	uint32_t op;
	uint32_t status;		/* in a reply: enum pvm_status */
	uint32_t code;			/* the call's number, signal, flags */
	uint32_t payload_len;		/* bytes that follow this header */
	uint32_t want;			/* bytes of payload asked of the reply */
	int64_t result;			/* in a reply: the value or -errno */
	uint64_t args[6];
};

/*
 * A slot id is index + PVM_SLOTS * generation, with generation >= 1: the id of
 * a task that is gone never names its successor.
 *
 * PID 1 does these. Strings in payloads end in a NUL.
 */
enum pvm_init_op {
	PVM_HELLO = 1,	/* -> result PVM_ABI, payload: kernel release */
	PVM_PING,	/* -> result 0, after all earlier frames went out */
	PVM_SPAWN,	/* payload: name, cgroup directory or "" -> a task */
	PVM_KILL,	/* slot, code: signal -> result of the kill */
	PVM_STATUS,	/* slot -> OK while it lives, else DIED */
	PVM_AWAIT,	/* slot -> DIED as soon as it is dead */
	PVM_INTERRUPT,	/* slot, args[0]: seq of the operation to end early */
	PVM_PLACE,	/* slot, args[0]: mask of the CPUs it may run on -> result */
	PVM_READ_FILE,	/* args: offset; want; payload: path -> payload */
	PVM_WRITE_FILE,	/* args: offset, mode; payload: path, then bytes */
	PVM_MKDIR,	/* args: mode; payload: path */
	PVM_ZRAM_SWAP,	/* args: bytes; payload: block device's name */
	PVM_RUN,	/* payload: program, output file -> DIED with its status */
};

/*
 * A task does these. "-> a task" replies carry, in args: process id, slot id,
 * scratch address, scratch length, thread id. In frames down, args[1] of a
 * PVM_CLONE is PID 1's to fill in: the slot id.
 */
enum pvm_task_op {
	PVM_SYSCALL = 64,	/* code: number; args; payload <-> scratch */
	PVM_STORE,	/* args: address; payload: the bytes to store there */
	PVM_LOAD,	/* args: address; want -> payload */
	PVM_TOUCH,	/* args: address, count, stride; code: enum pvm_touch */
	PVM_CLONE,	/* code: clone flags; payload: name -> a task */
	PVM_EXIT,	/* code: exit code -> DIED */
	PVM_WRITE_LOOP,	/* args: address, first value, limit (0: none) */
	PVM_SPIN,	/* burns CPU until interrupted -> result: rounds */
	PVM_PAUSE,	/* sleeps until interrupted */
};

enum pvm_touch {
	PVM_TOUCH_READ,
	PVM_TOUCH_WRITE,	/* stores what is there already */
	PVM_TOUCH_STAMP,	/* stores args[3] + i * args[4], 8 bytes */
};

enum pvm_status {
	PVM_OK,
	PVM_FAULT,	/* args: signal, si_code, si_addr, units done before */
	PVM_DIED,	/* result: wait status (code << 8 | signal) or -1 */
	PVM_BUSY,	/* the task has not answered its last frame */
	PVM_NO_TASK,	/* no such slot id now */
	PVM_BAD,	/* unknown op, or a length that cannot be */
};
#endif
