/*
 * Arithmetic on foreign numbers: every function returns 0 and writes its
 * result, or returns -EOVERFLOW (-EINVAL where said) and leaves it alone.
 */
#ifndef HVRS_UTIL_CHECKED_H
#define HVRS_UTIL_CHECKED_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* a + b */
static inline int checked_add(uint64_t a, uint64_t b, uint64_t *_sum)
{
	uint64_t sum = 0;

	if (__builtin_add_overflow(a, b, &sum)) {
		return -EOVERFLOW;
	}
	*_sum = sum;
	return 0;
}

/* a - b; -EOVERFLOW where b is larger */
static inline int checked_sub(uint64_t a, uint64_t b, uint64_t *_difference)
{
	if (b > a) {
		return -EOVERFLOW;
	}
	*_difference = a - b;
	return 0;
}

/* a * b */
static inline int checked_mul(uint64_t a, uint64_t b, uint64_t *_product)
{
	uint64_t product = 0;

	if (__builtin_mul_overflow(a, b, &product)) {
		return -EOVERFLOW;
	}
	*_product = product;
	return 0;
}

/* The largest multiple of unit not above value; -EINVAL for a unit of 0. */
static inline int checked_round_down(uint64_t value, uint64_t unit,
				     uint64_t *_rounded)
{
	if (unit == 0) {
		return -EINVAL;
	}
	*_rounded = value - value % unit;
	return 0;
}

/* The smallest multiple of unit not below value; -EINVAL for a unit of 0. */
static inline int checked_round_up(uint64_t value, uint64_t unit,
				   uint64_t *_rounded)
{
	uint64_t rest = 0;

	if (unit == 0) {
		return -EINVAL;
	}
	rest = value % unit;
	if (rest == 0) {
		*_rounded = value;
		return 0;
	}
	return checked_add(value, unit - rest, _rounded);
}

/* Whether the length bytes from offset lie inside the first size bytes. */
static inline bool checked_inside(uint64_t offset, uint64_t length,
				  uint64_t size)
{
	return offset <= size && length <= size - offset;
}

#endif
