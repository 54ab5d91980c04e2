"""smbtorture on what handles, leases, locks and sessions are to a client: hvrs
takes nothing away, and the persistent tests pass.

smb2.replay and smb2.lease wait for minutes; they are cut off after 165 s, and
run to their end with HVRS_LONG."""

import os
import shutil
import subprocess
import unittest

import lab

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       '../smbtorture-compare')
LONG = bool(os.environ.get('HVRS_LONG'))
SUITES = ['smb2.durable-open', 'smb2.durable-v2-open',
          'smb2.durable-v2-delay', 'smb2.durable-v2-regressions',
          'smb2.replay', 'smb2.lease', 'smb2.lock', 'smb2.multichannel',
          'smb2.oplock']
# It waits for changes of the directory that the others work in.
ALONE = ['smb2.session']
# Both persistent tests, and late in smb2.replay the one that wants such a
# share.
REQUIRED = ['smb2.durable-v2-open.persistent-open-oplock',
            'smb2.durable-v2-open.persistent-open-lease'] + \
    (['smb2.replay.replay5'] if LONG else [])


class Smbtorture(unittest.TestCase):
    def test_nothing_is_lost_where_handles_are_kept(self):
        # A file system each: they share no file numbers.
        disks = [lab.LoopDisk('xfs') for _ in range(2)]
        for disk in disks:
            self.addCleanup(disk.remove)
            os.mkdir(disk.share + '/alone')
            shutil.chown(disk.share + '/alone', 'hvrs', 'hvrs')
        lines = ['posix locking = no', 'kernel oplocks = no',
                 'kernel share modes = no', 'durable handles = yes']
        ours = ['vfs objects = hvrs']
        server = lab.Server(
            {'plain': (disks[0].share, lines),
             'plainalone': (disks[0].share + '/alone', lines),
             'vm': (disks[1].share, ours),
             'vmalone': (disks[1].share + '/alone', ours)},
            ['smbd:FSCTL_SMBTORTURE = yes',
             'server multi channel support = yes'])
        self.addCleanup(server.stop)
        demands = []
        for name in REQUIRED:
            demands += ['--require', 'vm:' + name]
        command = [COMPARE, '-p', str(server.port), '-U', 'hvrs%hvrs',
                   '--limit', '520' if LONG else '165', '--spread',
                   '--jobs', '20']
        runs = [subprocess.Popen(
            command + more, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
            for more in (demands + ['//127.0.0.1/plain', 'vm', '--'] + SUITES,
                         ['//127.0.0.1/plainalone', 'vmalone', '--'] + ALONE)]
        for run in runs:
            text = run.communicate(timeout=560)[0]
            if LONG:
                print(text, flush=True)
            self.assertEqual(0, run.returncode, text)
        server.alive()


if __name__ == '__main__':
    unittest.main()
