"""hvrs-check against shares that have a clause and shares that have not."""

import glob
import json
import os
import subprocess
import unittest

import lab


class HvrsCheck(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = lab.Server({
            'vm': ['vfs objects = hvrs'],
            'vmbtrfs': ['vfs objects = hvrs'],
            'vmext4': ['vfs objects = hvrs'],
            'vmoff': ['vfs objects = hvrs'] + lab.options_off(),
            'plain': [],
            'shared': ('/srv/xfs/vm', [
                'vfs objects = hvrs', 'hvrs:shared disks = yes']),
        }, ['registry shares = yes'])
        cls.addClassCleanup(cls.server.stop)

    def check(self, share, *arguments, user='hvrsadmin', password=None):
        done = subprocess.run(
            ['hvrs-check', '-p', str(self.server.port), '-U',
             '%s%%%s' % (user, password or user), '//127.0.0.1/' + share] +
            list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    def verdicts(self, share):
        """{clause: verdict}, and nothing of the run is left on the share."""
        _, out, err = self.check(share, '--json')
        self.assertEqual('', err)
        told = json.loads(out)
        path = self.server.directory_of(share)
        self.assertEqual([], glob.glob(path + '/hvrs-check*'))
        return {one['clause']: one['verdict'] for one in told['clauses']}

    def expect(self, wanted, share):
        got = self.verdicts(share)
        self.assertEqual(12, len(got))
        for clause, verdict in wanted.items():
            with self.subTest(share=share, clause=clause):
                self.assertEqual(verdict, got[clause])

    def test_shares_with_reflink_pass(self):
        for share in ('vm', 'vmbtrfs'):
            self.expect(dict.fromkeys(
                ('C0001', 'C0005', 'C0006', 'C0007', 'C0008', 'C0009',
                 'C0012'), 'pass'), share)

    def test_ext4_has_no_clones_and_no_snapshots(self):
        self.expect({'C0001': 'pass', 'C0005': 'pass', 'C0006': 'pass',
                     'C0007': 'absent', 'C0008': 'pass', 'C0009': 'pass',
                     'C0012': 'absent'}, 'vmext4')

    def test_without_hvrs_it_is_absent_or_fails(self):
        for share in ('vmoff', 'plain'):
            self.expect({'C0001': 'pass', 'C0002': 'absent',
                         'C0003': 'absent', 'C0004': 'absent',
                         'C0006': 'absent', 'C0007': 'absent',
                         'C0008': 'fail', 'C0009': 'absent',
                         'C0010': 'absent', 'C0011': 'absent',
                         'C0012': 'absent'}, share)

    def test_a_shared_disk_and_a_set(self):
        status, out, err = self.check('shared', '-c', 'C0010')
        self.assertEqual((0, ''), (status, err))
        self.assertRegex(out, '^C0010  pass    .*a VHD Set: a snapshot taken, '
                         'extracted, gone back to and deleted')
        self.assertEqual([], glob.glob('/srv/xfs/vm/hvrs-check*'))

    def test_exit_status_tells_duties(self):
        self.assertEqual(0, self.check('vm', '-c', 'C0001', '-c',
                                       'C0008')[0])
        self.assertEqual(1, self.check('plain', '-c', 'C0008')[0])
        self.assertEqual(0, self.check('plain', '-c', 'c0007')[0])

    def test_one_line_a_clause(self):
        status, out, _ = self.check('vm', '--clause', 'C0006')
        self.assertEqual(0, status)
        self.assertRegex(out, r'^C0006  pass    file level trim: .*\n$')

    def test_blocks_on_disk(self):
        for share, wanted in (
                ('vm', 'all blocks are shared with the source'),
                ('vmbtrfs', 'all blocks are shared with the source'),
                ('vmext4', 'blocks are copied, as the file system cannot')):
            with self.subTest(share=share):
                status, out, err = self.check(
                    share, '-c', 'C0004', '--local',
                    self.server.directory_of(share))
                self.assertEqual((0, ''), (status, err))
                self.assertIn(wanted, out)

    def test_a_directory_that_is_not_the_shares(self):
        status, _, err = self.check('vm', '-c', 'C0004', '-l', '/tmp')
        self.assertEqual(2, status)
        self.assertIn('/tmp is not the directory of', err)
        self.assertEqual([], glob.glob(lab.DIRECTORIES['vm'] +
                                       '/hvrs-check*'))

    def test_keep_leaves_the_files(self):
        self.assertEqual(0, self.check('vm', '--clause', 'C0006',
                                       '--keep')[0])
        left = glob.glob(lab.DIRECTORIES['vm'] + '/hvrs-check*')
        self.assertEqual(1, len(left))
        self.assertEqual(['trim.bin'], os.listdir(left[0]))
        lab.run('rm', '-r', left[0])

    def test_wrong_password_share_user_and_arguments(self):
        for arguments, status, text in (
                (('vm', '-c', 'C0001'), 1, 'LOGON_FAILURE'),
                (('nowhere',), 1, 'BAD_NETWORK_NAME')):
            password = 'wrong' if arguments[0] == 'vm' else None
            got, _, err = self.check(*arguments, password=password)
            self.assertEqual(status, got)
            self.assertIn(text, err)
        got, _, err = self.check('vm', user='other')
        self.assertEqual(1, got)
        self.assertIn('must be able to write', err)
        for arguments in (('--clause', 'C0013'), ('--bogus',), ('extra',),
                          ('-p', '0')):
            self.assertEqual(2, self.check('vm', *arguments)[0])

    def test_a_server_that_is_none(self):
        done = subprocess.run(['hvrs-check', '-p', '1', '-U', 'a%b',
                               '//127.0.0.1/vm'], stderr=subprocess.PIPE,
                              text=True)
        self.assertEqual(1, done.returncode)
        self.assertIn('Connection refused', done.stderr)


if __name__ == '__main__':
    unittest.main()
