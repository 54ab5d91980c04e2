"""What the documents say is so: man pages against the tables of the programs,
and the examples loaded by a server."""

import glob
import os
import re
import shutil
import subprocess
import unittest

import lab
import smb2

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
MAN = os.path.join(ROOT, 'docs', 'man')


def page(name):
    with open(os.path.join(MAN, name)) as text:
        return text.read()


class ManPages(unittest.TestCase):
    def test_every_option_has_its_entry_with_its_default(self):
        told = re.findall(r'^(share|global) +hvrs:(.*?) =(.*)$',
                          lab.run('hvrsctl', 'options'), re.M)
        self.assertGreater(len(told), 10)
        share, _, rest = page('vfs_hvrs.8').partition('.Sh OPTIONS OF [glob')
        written = {}
        for where, text in (('share', share), ('global', rest)):
            for name, value in re.findall(r'^\.It Sy hvrs:(.*?) =(.*)$', text,
                                          re.M):
                written[name] = (where, value.strip())
        self.assertEqual(sorted(name for _, name, _ in told),
                         sorted(written))
        for where, name, value in told:
            with self.subTest(name):
                self.assertEqual(where, written[name][0])
                shown = written[name][1].replace(' ...', '')
                self.assertTrue(value.strip().startswith(shown),
                                (value, shown))

    def test_every_command_of_hvrsctl_has_its_entry(self):
        told = re.findall(r'^  (\w+)', subprocess.run(
            ['hvrsctl', '--help'], stdout=subprocess.PIPE,
            text=True).stdout, re.M)
        written = set(re.findall(r'^\.It Cm (\w+)', page('hvrsctl.8'), re.M))
        self.assertEqual(set(told), written)

    def test_every_installed_program_has_a_page(self):
        for program in glob.glob('/usr/bin/hvrs*'):
            name = os.path.basename(program)
            self.assertTrue(glob.glob(os.path.join(MAN, name + '.[0-9]')),
                            'no man page of ' + name)

    def test_pages_are_well_formed(self):
        for path in glob.glob(MAN + '/*'):
            out = subprocess.run(['man', '--warnings', '-E', 'UTF-8', '-l',
                                  '-Tutf8', path], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True).stderr
            self.assertEqual('', out, path)


class Examples(unittest.TestCase):
    def check(self, name):
        checked = subprocess.run(
            ['testparm', '-s', os.path.join(ROOT, 'examples', name)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.assertEqual(0, checked.returncode, checked.stderr)
        self.assertNotIn('nknown parameter', checked.stderr)

    def test_smb_conf_of_a_cluster_is_understood(self):
        """tests/integration/cluster.py runs one."""
        self.check('ctdb/smb.conf')

    def test_smb_conf_is_understood_and_serves(self):
        """As it stands but for its path."""
        with open(os.path.join(ROOT, 'examples', 'smb.conf')) as text:
            lines = text.read()
        options = re.search(r'^\[vm\]\n(.*)', lines, re.M | re.S).group(1)
        options = [line.strip() for line in options.split('\n')
                   if line.strip() and not line.strip().startswith('#') and
                   'path =' not in line]
        directory = '/srv/xfs/example'
        os.makedirs(directory, exist_ok=True)
        shutil.chown(directory, 'hvrs', 'hvrs')
        self.addCleanup(shutil.rmtree, directory)
        self.check('smb.conf')
        server = lab.Server({'vm': (directory, options)},
                            ['registry shares = yes',
                             'server min protocol = SMB3_00'])
        self.addCleanup(server.stop)
        tree = server.connect('vm')
        file = tree.create('disk.vhdx')
        file.write(0, b'hvrs')
        self.assertEqual(b'hvrs', file.read(0, 4))
        self.assertEqual(smb2.OK, file.close())
        self.assertEqual([], server.lines('hvrs: '))


if __name__ == '__main__':
    unittest.main()
