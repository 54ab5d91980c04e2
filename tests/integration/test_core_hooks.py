"""Without core hooks, by choice or because they cannot be installed,
everything works but what needs them."""

import glob
import os
import struct
import tempfile
import unittest

import fsctl
import lab
import smb2
import test_stacks
from smb2 import OK

# Stands in front of a function of smbd's core, as another program might.
INTRUDER = '''
#define _GNU_SOURCE
#include <dlfcn.h>
void *smb2_ioctl_filesys(unsigned code, void *ev, void *req, void *state)
{
	void *(*next)(unsigned, void *, void *, void *) =
		(void *(*)(unsigned, void *, void *, void *))
		dlsym(RTLD_NEXT, "smb2_ioctl_filesys");
	return next(code, ev, req, state);
}
'''


class CoreHooks(unittest.TestCase):
    def start(self, *settings, more=()):
        shares = {'stack': (lab.DIRECTORIES['vm'],
                            ['vfs objects = hvrs'] + list(more)),
                  'vmext4': ['vfs objects = hvrs']}
        self.server = lab.Server(shares, settings)
        self.addCleanup(self.server.stop)

    def sectors(self):
        tree = self.server.connect('stack')
        self.addCleanup(tree.connection.close)
        root = tree.create(
            '', access=smb2.READ_ATTRIBUTES, disposition=smb2.OPEN,
            options=smb2.DIRECTORY)
        cluster = struct.unpack_from('<II', root.info(3, 2)[1], 16)
        return struct.unpack('<7I', root.info(11, 2)[1]), cluster

    def everything_else_works(self):
        test_stacks.exercise(self, ('hvrs',), hooks=False)
        # Only the trim flag is missing, and what an older Samba lacks.
        sizes = (4096,) * 3 if lab.SERIES >= (4, 22) else (512,) * 3
        self.assertEqual(((512, *sizes, 3, 0, 0), (8, 512)),
                         self.sectors())
        self.server.alive()

    def test_off_by_choice(self):
        self.start('hvrs:core hooks = no')
        self.everything_else_works()
        self.assertEqual([], self.server.lines('hvrs:'))

    def test_on(self):
        self.start()
        test_stacks.exercise(self, ('hvrs',))
        self.assertEqual(((512, 4096, 4096, 4096, 11, 0, 0), (8, 512)),
                         self.sectors())
        self.assertEqual([], self.server.lines('hvrs:'))

    def test_zeroed_range_keeps_its_blocks_without_them(self):
        self.start('hvrs:core hooks = no', more=['hvrs:zero data frees = no'])
        path = lab.DIRECTORIES['vm'] + '/hvrs-hooks.vhdx'
        tree = self.server.connect('stack')
        self.addCleanup(tree.connection.close)
        file = tree.create('hvrs-hooks.vhdx')
        self.addCleanup(os.unlink, path)
        data = lab.pattern(256 * lab.KIB)
        file.write(0, data)
        lab.settle(path)
        status, _ = file.fsctl(fsctl.SET_ZERO_DATA, fsctl.zero(65536, 131072))
        self.assertEqual(OK, status)
        self.assertEqual(data[:65536] + bytes(65536) + data[131072:],
                         lab.content(path))
        self.assertEqual(256 * lab.KIB, lab.mapped(path, 0, lab.MIB))

    def test_cannot_be_installed(self):
        """One clear line, and all but the hooks works."""
        with tempfile.TemporaryDirectory() as directory:
            source, library = directory + '/x.c', directory + '/x.so'
            with open(source, 'w') as out:
                out.write(INTRUDER)
            lab.run('gcc', '-shared', '-fPIC', '-o', library, source)
            os.environ['LD_PRELOAD'] = library
            try:
                self.start()
            finally:
                del os.environ['LD_PRELOAD']
            self.everything_else_works()
        lines = self.server.lines('core hooks are off')
        self.assertEqual(1, len(set(line.split('hvrs:')[1]
                                    for line in lines)), self.server.text())
        self.assertIn('smb2_ioctl_filesys', lines[0])
        self.assertIn('Everything that does not need them works', lines[0])


if __name__ == '__main__':
    unittest.main()
