/*
 * A store in memory for tests.  It can record every change with the flushes
 * between, rebuild what a power cut would leave, and fail its nth call.
 */
#ifndef HVRS_TESTS_SUPPORT_MEM_STORE_H
#define HVRS_TESTS_SUPPORT_MEM_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <talloc.h>

#include "store/store.h"

struct tevent_context;

struct mem_store;

/*
 * An empty store; requests complete from ev's loop, in the order of
 * submission, or in a shuffled one after mem_store_shuffle().  The content is
 * kept in pages, so a sparse terabyte costs little.
 */
struct mem_store *mem_store_new(TALLOC_CTX *mem_ctx,
				struct tevent_context *ev);

/* The store to hand to an engine. */
struct store *mem_store_get(struct mem_store *ms);

/* Completes submitted requests in an order drawn from seed. */
void mem_store_shuffle(struct mem_store *ms, uint64_t seed);

/* Fails call number nth (1 = the next) of any kind with error, once. */
void mem_store_fail(struct mem_store *ms, uint64_t nth, int error);

/* Fails every call from the nth on. */
void mem_store_fail_from(struct mem_store *ms, uint64_t nth, int error);

/* Calls so far. */
uint64_t mem_store_calls(const struct mem_store *ms);

/* Starts to record from the present content. */
void mem_store_record(struct mem_store *ms);

/* Changes and flushes recorded. */
size_t mem_store_events(const struct mem_store *ms);

/*
 * A new store with what a cut just before event number cut leaves: everything
 * before the last flush that precedes it, and of the changes since then a
 * subset, each lost, whole, torn at a 512-byte boundary, or applied out of
 * order, drawn from seed.  A seed of 0 keeps all of them whole.  A flush counts
 * for what was completed before it was asked.
 */
struct mem_store *mem_store_cut(TALLOC_CTX *mem_ctx, struct mem_store *ms,
				size_t cut, uint64_t seed);

/* A copy of the content as it is. */
struct mem_store *mem_store_copy(TALLOC_CTX *mem_ctx, struct mem_store *ms);

/* Replaces the content with length bytes. */
int mem_store_load(struct mem_store *ms, const uint8_t *bytes, size_t length);

/* Allocated pages, to see that space was freed. */
uint64_t mem_store_bytes_used(const struct mem_store *ms);

#endif
