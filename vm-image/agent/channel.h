/* SPDX-License-Identifier: MIT */
/*
 * The pipes between PID 1 and the tasks.
 *
 * Every slot has a pipe down (frames to do) and one up (replies). PID 1 makes
 * them all before the first task, at fixed high numbers: a task that is forked
 * by another one, or is a thread of it, finds its pair there without being
 * handed anything, whatever its user id has become since.
 */
#ifndef PVM_CHANNEL_H
#define PVM_CHANNEL_H
#include "abi.h"

enum {
	CHANNEL_FIRST_FD = 1024 - 2 * PVM_SLOTS,	/* below RLIMIT_NOFILE */
	CHANNEL_INTERRUPT = 10,				/* SIGUSR1 */
};

static inline int channel_down(uint32_t slot)
{
	return CHANNEL_FIRST_FD + 2 * (slot % PVM_SLOTS);
}

static inline int channel_up(uint32_t slot)
{
	return channel_down(slot) + 1;
}
#endif
