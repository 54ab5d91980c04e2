"""hvrsctl doctor and status: what is wrong is named with the line that puts it
right, what is right is not, and numbers are those of the server."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import uuid

import lab
from handles import H, R, Client

MODULE = lab.modules_directory() + '/hvrs.so'


def hvrsctl(*arguments):
    done = subprocess.run(('hvrsctl',) + arguments, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, done.stderr


class Doctor(unittest.TestCase):
    GOOD = ['preload modules = ' + MODULE, 'registry shares = yes']

    def judge(self, settings=GOOD, options=(), path='/srv/xfs/vm'):
        directory = tempfile.mkdtemp(prefix='hvrs-doctor-')
        self.addCleanup(shutil.rmtree, directory)
        with open(directory + '/smb.conf', 'w') as out:
            out.write('\n'.join(
                ['[global]'] + list(settings) +
                ['[vm]', 'vfs objects = hvrs', 'path = ' + path,
                 'read only = no'] + list(options)) + '\n')
        status, out, err = hvrsctl('doctor', '--json', '--config',
                                   directory + '/smb.conf')
        self.assertEqual('', err)
        return status, [(one['level'], one['section'], one['line'] or
                         one['text']) for one in json.loads(out)]

    def test_a_right_configuration_has_nothing(self):
        for path in ('/srv/xfs/vm', '/srv/btrfs/vmbtrfs'):
            self.assertEqual((0, []), self.judge(path=path))
        self.assertEqual([], [name for name in os.listdir('/srv/xfs/vm')
                              if name.startswith('.hvrs-probe')])

    def test_each_wrong_line_is_named_with_the_right_one(self):
        for settings, options, wanted in (
                (['registry shares = yes'], [],
                 ('error', 'global', 'preload modules = ' + MODULE)),
                (self.GOOD[:1], [],
                 ('advice', 'global', 'registry shares = yes')),
                (self.GOOD + ['server max protocol = SMB2'], [],
                 ('error', 'global', 'server max protocol = SMB3')),
                (self.GOOD + ['strict sync = no'], [],
                 ('error', 'vm', 'strict sync = yes')),
                (self.GOOD, ['strict sync = no'],
                 ('error', 'vm', 'strict sync = yes')),
                (self.GOOD, ['store dos attributes = no'],
                 ('advice', 'vm', 'store dos attributes = yes')),
                (self.GOOD, ['read only = yes'],
                 ('error', 'vm', 'read only = no'))):
            with self.subTest(wanted):
                status, found = self.judge(settings, options)
                self.assertEqual([wanted], found)
                self.assertEqual(wanted[0] == 'error', status == 1)

    def test_options_and_file_systems(self):
        for settings, options, path, level, section, text in (
                (self.GOOD, ['hvrs:trimm = no'], '/srv/xfs/vm', 'error',
                 'vm', 'hvrs:trim"'),
                (self.GOOD, ['hvrs:trim = maybe'], '/srv/xfs/vm', 'error',
                 'vm', 'not understood'),
                (self.GOOD, ['hvrs:core hooks = no'], '/srv/xfs/vm',
                 'error', 'vm', 'belongs into'),
                (self.GOOD, [], '/srv/nowhere', 'error', 'vm', 'mkdir'),
                (self.GOOD, [], '/srv/ext4/vmext4', 'advice', 'vm',
                 'reflink')):
            with self.subTest(text):
                status, found = self.judge(settings, options, path)
                self.assertEqual(1, len(found), found)
                self.assertEqual((level, section), found[0][:2])
                self.assertIn(text, found[0][2])
                self.assertEqual(level == 'error', status == 1)

    def test_a_module_that_does_not_load(self):
        self.assertEqual(0, hvrsctl('doctor', '--module')[0])
        os.rename(MODULE, MODULE + '.away')
        self.addCleanup(os.rename, MODULE + '.away', MODULE)
        with open(MODULE, 'wb') as out:
            out.write(b'nothing')
        status, out, _ = hvrsctl('doctor', '--module')
        self.assertEqual(1, status)
        self.assertIn('cannot be loaded', out)


class Status(unittest.TestCase):
    """Of the lab's own server."""

    def told(self):
        status, out, err = hvrsctl('status', '--json')
        self.assertEqual((0, ''), (status, err))
        return json.loads(out)

    def test_features_and_why_not(self):
        told = self.told()
        shares = {one['share']: one for one in told['shares']}
        self.assertIn('vm', shares)
        self.assertNotIn('plain', shares)
        clone = 'block cloning'
        self.assertTrue(shares['vm']['features'][clone]['on'])
        off = shares['vmext4']['features'][clone]
        self.assertFalse(off['on'])
        self.assertIn('share blocks', off['why not'])
        self.assertEqual({'switched off'}, {
            one['why not'] for one in shares['vmoff']['features'].values()})
        self.assertEqual(lab.run('smbd', '--version').strip(),
                         'Version ' + told['samba'])
        _, text, _ = hvrsctl('status')
        self.assertRegex(text, r'share vmext4 .*\n  on: .*trim')
        self.assertIn('  off: block cloning: the file system', text)

    def test_a_handle_is_counted(self):
        class Server:
            with open('/lab/port') as text:
                port = int(text.read())
        name = 'hvrs-status-%s.vhdx' % uuid.uuid4().hex[:8]
        before = self.metrics()
        client = Client(Server(), 'vm')
        self.addCleanup(os.unlink, '/srv/xfs/vm/' + name)
        self.addCleanup(client.drop)
        file = client.open(name, R | H, timeout=10000)
        key = 'hvrs_handles{kind="persistent",state="open"}'
        self.assertEqual(before[key] + 1, self.metrics()[key])
        self.assertIn(name, [one['file'] for one in self.told()['handles']])
        file.close()
        self.assertEqual(before[key], self.metrics()[key])

    def metrics(self):
        directory = tempfile.mkdtemp(prefix='hvrs-metrics-')
        self.addCleanup(shutil.rmtree, directory, True)
        path = directory + '/hvrs.prom'
        status, _, err = hvrsctl('status', '--prometheus', path)
        self.assertEqual((0, ''), (status, err))
        self.assertEqual(['hvrs.prom'], os.listdir(directory))
        self.assertEqual(0o644, os.stat(path).st_mode & 0o777)
        found = {}
        with open(path) as text:
            for line in text:
                if line.startswith('# '):
                    continue
                got = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z]+="[^"]*",?)*\})?)'
                                   r' (\d+)\n', line)
                self.assertTrue(got, line)
                found[got.group(1)] = int(got.group(2))
        self.assertEqual(1, found['hvrs_feature{share="vm",feature="trim"}'])
        return found

    def test_a_file_that_cannot_be_written(self):
        status, _, err = hvrsctl('status', '--prometheus', '/nowhere/x')
        self.assertEqual(1, status)
        self.assertIn('No such file', err)


if __name__ == '__main__':
    unittest.main()
