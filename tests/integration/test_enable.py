"""hvrsctl enable and disable: what they make of files and of the registry,
judged by testparm, and by a server for what is enabled."""

import glob
import os
import shutil
import subprocess
import tempfile
import unittest

import lab

MODULE = lab.modules_directory() + '/hvrs.so'


def hvrsctl(*arguments):
    done = subprocess.run(('hvrsctl',) + arguments, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


class File(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix='hvrs-enable-')
        self.addCleanup(shutil.rmtree, self.directory)
        self.conf = self.directory + '/smb.conf'

    def write(self, text):
        with open(self.conf, 'w') as out:
            out.write(text)

    def read(self):
        with open(self.conf) as text:
            return text.read()

    def do(self, command, share='vm'):
        return hvrsctl(command, '--config', self.conf, share)

    def backups(self):
        return glob.glob(self.conf + '.before-hvrs-*')

    def effective(self, parameter, section='vm'):
        return subprocess.run(
            ['testparm', '-s', '--section-name=' + section,
             '--parameter-name=' + parameter, self.conf],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True).stdout.strip()

    BEFORE = ('# of the house\n[global]\n\tworkgroup = HOUSE\n\n'
              '; machines\n[vm]\n   path = /srv\n\n# end\n')

    def test_two_lines_and_back(self):
        self.write(self.BEFORE)
        os.chmod(self.conf, 0o640)
        shutil.chown(self.conf, 'hvrs', 'other')
        was = os.stat(self.conf)
        status, out = self.do('enable', 'VM')
        self.assertEqual(0, status, out)
        self.assertEqual(
            '# of the house\n[global]\n\tworkgroup = HOUSE\n'
            '\tpreload modules = %s\n\n; machines\n[vm]\n   path = /srv\n'
            '   vfs objects = hvrs\n\n# end\n' % MODULE, self.read())
        now = os.stat(self.conf)
        self.assertEqual((was.st_mode, was.st_uid, was.st_gid),
                         (now.st_mode, now.st_uid, now.st_gid))
        (backup,) = self.backups()
        with open(backup) as text:
            self.assertEqual(self.BEFORE, text.read())
        self.assertEqual(0, self.do('enable')[0])
        self.assertEqual(1, len(self.backups()))
        self.assertEqual(0, self.do('disable')[0])
        self.assertEqual(self.BEFORE, self.read())
        self.assertEqual([], glob.glob(self.conf + '.hvrs-new*'))

    def test_a_list_of_all_shares_is_kept(self):
        self.write('[global]\nvfs objects = acl_xattr io_uring\n'
                   'preload modules = /other.so\n[vm]\npath = /srv\n')
        self.assertEqual(0, self.do('enable')[0])
        self.assertEqual('acl_xattr hvrs io_uring',
                         self.effective('vfs objects').replace(',', ''))
        self.assertIn('/other.so ' + MODULE, self.read())
        self.assertEqual(0, self.do('disable')[0])
        self.assertEqual('acl_xattr io_uring',
                         self.effective('vfs objects').replace(',', ''))
        self.assertIn('preload modules = /other.so\n', self.read())

    def test_the_preload_stays_while_another_share_needs_it(self):
        self.write(self.BEFORE + '[b]\npath = /b\n')
        self.assertEqual(0, self.do('enable')[0])
        self.assertEqual(0, self.do('enable', 'b')[0])
        self.assertEqual(0, self.do('disable')[0])
        self.assertIn(MODULE, self.read())
        self.assertEqual(0, self.do('disable', 'b')[0])
        self.assertNotIn('hvrs', self.read())

    def test_what_cannot_be_is_not_written(self):
        self.write(self.BEFORE)
        for share in ('global', 'nowhere'):
            status, out = self.do('enable', share)
            self.assertEqual(1, status)
            self.assertIn('no share', out)
        self.assertEqual(self.BEFORE, self.read())
        with open(self.directory + '/more', 'w') as out:
            out.write('vfs objects = acl_xattr\n')
        text = self.BEFORE.replace('\n\n# end', '\n[z]\npath = /z\n[vm]\n'
                                   'include = %s/more' % self.directory)
        text = text.replace('path = /srv\n',
                            'path = /srv\n   vfs objects = acl_xattr\n')
        self.write(text)
        status, out = self.do('enable')
        self.assertEqual(1, status, out)
        self.assertIn('include', out)
        self.assertEqual(text, self.read())
        self.assertEqual([], self.backups())

    def test_what_is_no_command_line(self):
        for arguments in ((), ('--config',), ('-x',), ('a', 'b')):
            self.assertEqual(2, hvrsctl('enable', *arguments)[0])


class Registry(unittest.TestCase):
    def test_a_share_of_the_registry(self):
        """The lab's own server; its smb.conf has the preload already."""
        name = 'hvrs-reg'
        lab.run('net', 'conf', 'addshare', name, '/srv/xfs/vm')
        self.addCleanup(lab.run, 'net', 'conf', 'delshare', name)
        with open('/etc/samba/smb.conf') as text:
            before = text.read()
        status, out = hvrsctl('enable', name)
        self.assertEqual(0, status, out)
        self.assertIn('hvrs', lab.run('net', 'conf', 'getparm', name,
                                      'vfs objects'))
        status, out = hvrsctl('disable', name)
        self.assertEqual(0, status, out)
        self.assertNotIn('vfs objects', lab.run('net', 'conf', 'showshare',
                                                name))
        with open('/etc/samba/smb.conf') as text:
            self.assertEqual(before, text.read())


if __name__ == '__main__':
    unittest.main()
