/*
 * Allocations that fail: the unit tests are linked so that what the libraries
 * ask talloc and tevent for comes by here.
 */
#ifndef HVRS_TESTS_SUPPORT_ALLOC_FAIL_H
#define HVRS_TESTS_SUPPORT_ALLOC_FAIL_H

#include <stdbool.h>
#include <stdint.h>

/* Fails allocation number nth (1 = the next), and all after it where on. */
void alloc_fail(uint64_t nth, bool on);

/* No more fails; whether one did. */
bool alloc_fail_end(void);

#endif
