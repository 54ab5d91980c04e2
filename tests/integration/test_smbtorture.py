"""smbtorture on shares with ACLs and streams, where more of its tests pass
than on the lab's bare shares: hvrs takes none away."""

import os
import subprocess
import unittest

import lab

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                       '../smbtorture-compare')
MORE = ['hide dot files = no', 'smbd:FSCTL_SMBTORTURE = yes',
        'vfs objects = %s acl_xattr streams_xattr', 'ea support = yes']


def options(ours):
    return [line.replace('%s', ours) for line in MORE]


class Smbtorture(unittest.TestCase):
    shares = {
        'plain': options(''),
        'vm': options('hvrs'),
        'vmbtrfs': options('hvrs'),
        'vmext4': options('hvrs'),
        'below': ('/srv/xfs/plainsync',
                  MORE[:2] + ['vfs objects = acl_xattr streams_xattr hvrs',
                              'ea support = yes']),
    }

    def test_nothing_is_lost_beside_acls_and_streams(self):
        server = lab.Server(self.shares)
        self.addCleanup(server.stop)
        done = subprocess.run(
            [COMPARE, '-p', str(server.port), '-U', 'hvrs%hvrs',
             '--limit', '120', '//127.0.0.1/plain', 'vm', 'vmbtrfs',
             'vmext4', 'below'],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            timeout=500)
        self.assertEqual(0, done.returncode, done.stdout)
        # These are judged here; the lab's bare shares fail them all.
        for name in ('aclfile', 'acldir', 'nulldacl', 'mkdir-visible'):
            self.assertNotIn('smb2.create.%s\n' % name, done.stdout)
        server.alive()


if __name__ == '__main__':
    unittest.main()
