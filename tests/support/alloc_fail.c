/* Allocations that fail. */
#include "support/alloc_fail.h"

#include <stddef.h>
#include <sys/time.h>
#include <talloc.h>
#include <tevent.h>

static struct {
	uint64_t left;	/* 0: none fails */
	bool on;
	bool failed;
} plan;

void alloc_fail(uint64_t nth, bool on)
{
	plan.left = nth;
	plan.on = on;
	plan.failed = false;
}

bool alloc_fail_end(void)
{
	plan.left = 0;
	return plan.failed;
}

static bool fails(void)
{
	if (plan.left == 0) {
		return false;
	}
	if (plan.left > 1) {
		plan.left--;
		return false;
	}
	plan.left = plan.on ? 1 : 0;
	plan.failed = true;
	return true;
}

#define WRAP(name, parameters, arguments)				\
	void *__real_##name parameters;					\
	void *__wrap_##name parameters;					\
	void *__wrap_##name parameters					\
	{								\
		return fails() ? NULL : __real_##name arguments;	\
	}

WRAP(talloc_named_const, (const void *context, size_t size, const char *name),
     (context, size, name))
WRAP(_talloc_zero, (const void *context, size_t size, const char *name),
     (context, size, name))
WRAP(_talloc_array, (const void *context, size_t size, unsigned count,
		     const char *name), (context, size, count, name))
WRAP(_talloc_zero_array, (const void *context, size_t size, unsigned count,
			  const char *name), (context, size, count, name))
WRAP(_talloc_realloc_array, (const void *context, void *old, size_t size,
			     unsigned count, const char *name),
     (context, old, size, count, name))
WRAP(talloc_strdup, (const void *context, const char *text), (context, text))
WRAP(_tevent_create_immediate, (TALLOC_CTX *mem_ctx, const char *location),
     (mem_ctx, location))
/* tevent has one of the two; the other has nothing behind it. */
#pragma weak __real___tevent_req_create
WRAP(__tevent_req_create, (TALLOC_CTX *mem_ctx, void *data, size_t size,
			   const char *type, const char *func,
			   const char *location),
     (mem_ctx, data, size, type, func, location))
#pragma weak __real__tevent_req_create
WRAP(_tevent_req_create, (TALLOC_CTX *mem_ctx, void *data, size_t size,
			  const char *type, const char *location),
     (mem_ctx, data, size, type, location))
