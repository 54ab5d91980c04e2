#!/usr/bin/env python3
"""Runs test files and tells how many tests passed.

usage: run.py [-q] FILE...

Prints each test that fails, with its trace, and why tests were skipped; the
last line reads "N passed, M failed, K skipped".
"""

import collections
import faulthandler
import os
import sys
import time
import unittest


class Result(unittest.TestResult):
    def __init__(self, quiet):
        super().__init__()
        self.quiet = quiet
        self.good = 0
        self.bad = set()
        self.reasons = collections.Counter()

    def stopTest(self, test):
        super().stopTest(test)
        if not self.quiet:
            print('F' if test.id() in self.bad else '.', end='', flush=True)

    def fail(self, test, error):
        test = getattr(test, 'test_case', test)
        self.bad.add(test.id())
        print('\nFAILED: %s\n%s' % (test.id(), self._exc_info_to_string(
            error, test)), flush=True)

    def addSuccess(self, test):
        self.good += 1

    def addFailure(self, test, error):
        self.fail(test, error)

    def addError(self, test, error):
        self.fail(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            print('\n%s' % subtest.id())
            self.fail(test, error)

    def addSkip(self, test, reason):
        self.skipped.append((test, reason))
        self.reasons[reason] += 1

    def addUnexpectedSuccess(self, test):
        self.bad.add(test.id())
        print('\nFAILED: %s passes, and was not expected to' % test.id())

    def counts(self):
        return self.good, len(self.bad), len(self.skipped)


def main():
    words = [word for word in sys.argv[1:] if word != '-q']
    result = Result('-q' in sys.argv)
    faulthandler.register(15, chain=True)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    sys.dont_write_bytecode = True
    begun = time.monotonic()
    # All at once: two tests of one class share what is set up for it.
    names = [os.path.basename(word) for word in words]
    unittest.defaultTestLoader.loadTestsFromNames(
        [name[:-3] if name.endswith('.py') else name for name in names]).run(
            result)
    for reason, times in sorted(result.reasons.items()):
        print('\nskipped %d: %s' % (times, reason), end='')
    passed, failed, skipped = result.counts()
    print('\nin %.1f s' % (time.monotonic() - begun))
    print('%d passed, %d failed, %d skipped' % (passed, failed, skipped))
    return 1 if failed or passed + skipped == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
