/* SPDX-License-Identifier: MIT */
/*
 * The C types that a learner's system calls need, as x86-64 has them, for
 * cffi's ABI mode. Pointers are uint64_t here: they are addresses in the
 * guest's task, never in this Python process. Compared with the kernel's own
 * headers (include/uapi/linux/...) by lib/tests/test_calls.py.
 */

struct iovec { uint64_t iov_base; uint64_t iov_len; };			/* uio.h */
struct rlimit64 { uint64_t rlim_cur; uint64_t rlim_max; };		/* resource.h */
struct timespec { int64_t tv_sec; int64_t tv_nsec; };			/* time.h */
struct open_how { uint64_t flags; uint64_t mode; uint64_t resolve; };	/* openat2.h */
struct pollfd { int32_t fd; int16_t events; int16_t revents; };	/* poll.h */

struct clone_args {							/* sched.h */
	uint64_t flags; uint64_t pidfd; uint64_t child_tid; uint64_t parent_tid;
	uint64_t exit_signal; uint64_t stack; uint64_t stack_size; uint64_t tls;
	uint64_t set_tid; uint64_t set_tid_size; uint64_t cgroup;
};

/* userfaultfd.h */
struct uffdio_range { uint64_t start; uint64_t len; };
struct uffdio_api { uint64_t api; uint64_t features; uint64_t ioctls; };
struct uffdio_register { struct uffdio_range range; uint64_t mode; uint64_t ioctls; };
struct uffdio_copy { uint64_t dst; uint64_t src; uint64_t len; uint64_t mode; int64_t copy; };
struct uffdio_zeropage { struct uffdio_range range; uint64_t mode; int64_t zeropage; };
struct uffdio_writeprotect { struct uffdio_range range; uint64_t mode; };
struct uffdio_continue { struct uffdio_range range; uint64_t mode; int64_t mapped; };
struct uffdio_move { uint64_t dst; uint64_t src; uint64_t len; uint64_t mode; int64_t move; };
struct uffd_pagefault { uint64_t flags; uint64_t address; uint32_t ptid; uint32_t pad; };
struct uffd_msg {
	uint8_t event; uint8_t reserved1; uint16_t reserved2; uint32_t reserved3;
	struct uffd_pagefault pagefault;	/* of the union, the longest */
};

enum uffd_constants {
	UFFD_API = 0xaa,
	UFFD_EVENT_PAGEFAULT = 0x12,
	UFFD_USER_MODE_ONLY = 1,
	UFFDIO_REGISTER_MODE_MISSING = 1,
	UFFDIO_REGISTER_MODE_WP = 2,
	UFFDIO_REGISTER_MODE_MINOR = 4,
	UFFDIO_COPY_MODE_DONTWAKE = 1,
	UFFDIO_WRITEPROTECT_MODE_WP = 1,
	UFFDIO_MOVE_MODE_DONTWAKE = 1,
	UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES = 2,
	UFFDIO_API = 0xc018aa3f,
	UFFDIO_REGISTER = 0xc020aa00,
	UFFDIO_UNREGISTER = 0x8010aa01,
	UFFDIO_WAKE = 0x8010aa02,
	UFFDIO_COPY = 0xc028aa03,
	UFFDIO_ZEROPAGE = 0xc020aa04,
	UFFDIO_MOVE = 0xc028aa05,
	UFFDIO_WRITEPROTECT = 0xc018aa06,
	UFFDIO_CONTINUE = 0xc020aa07,
};

/* io_uring.h: enough to register (and so to pin) buffers */
struct io_sqring_offsets {
	uint32_t head; uint32_t tail; uint32_t ring_mask; uint32_t ring_entries;
	uint32_t flags; uint32_t dropped; uint32_t array; uint32_t resv1;
	uint64_t user_addr;
};
struct io_cqring_offsets {
	uint32_t head; uint32_t tail; uint32_t ring_mask; uint32_t ring_entries;
	uint32_t overflow; uint32_t cqes; uint32_t flags; uint32_t resv1;
	uint64_t user_addr;
};
struct io_uring_params {
	uint32_t sq_entries; uint32_t cq_entries; uint32_t flags;
	uint32_t sq_thread_cpu; uint32_t sq_thread_idle; uint32_t features;
	uint32_t wq_fd; uint32_t resv[3];
	struct io_sqring_offsets sq_off;
	struct io_cqring_offsets cq_off;
};

enum io_uring_constants {
	IORING_REGISTER_BUFFERS = 0,
	IORING_UNREGISTER_BUFFERS = 1,
};
