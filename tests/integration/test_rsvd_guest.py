"""File systems of the kernel on a shared disk: made, filled with data that
fio verifies, trimmed, checked, and read again after everything was closed."""

import contextlib
import errno
import os
import subprocess
import unittest

import lab
import rsvd

PLUGIN = os.path.dirname(os.path.abspath(__file__)) + '/nbd_disk.py'
SIZE = 512 * lab.MIB


class Guest(rsvd.Case):

    def attach(self):
        """A loop device for the shared disk."""
        folder = self.server.directory + '/guest'
        os.makedirs(folder, exist_ok=True)
        self.errors = open(self.server.directory + '/errors', 'w+')
        self.addCleanup(self.errors.close)
        self.fuse = subprocess.Popen(
            ['nbdfuse', folder, '--command', 'nbdkit', '-s', 'python', PLUGIN,
             'port=%d' % self.server.port, 'share=' + self.share,
             'name=t/disk.vhdx'], stderr=self.errors)
        if not lab.until(lambda: os.path.exists(folder + '/nbd'), 30):
            self.fuse.kill()
            self.fail('nbdfuse has no file: ' + self.failures())
        return lab.run('losetup', '-f', '--show', '--direct-io=on',
                       folder + '/nbd').strip()

    def failures(self):
        """What nbdkit and nbdfuse said: of each request that failed."""
        self.errors.seek(0)
        return self.errors.read()

    def detach(self, device):
        lab.run('losetup', '-d', device)
        lab.until(lambda: 'busy' not in lab.run(
            'fusermount3', '-u', self.server.directory + '/guest',
            check=False))
        self.fuse.wait(20)

    @contextlib.contextmanager
    def attached(self):
        """The disk's device; no request may fail."""
        device = self.attach()
        try:
            yield device
        finally:
            self.detach(device)
            self.assertEqual('', self.failures())

    @contextlib.contextmanager
    def mounted(self, device):
        where = self.server.directory + '/mount'
        os.makedirs(where, exist_ok=True)
        lab.run('mount', device, where)
        try:
            yield where
        finally:
            lab.run('umount', where)

    def fio(self, where, *how):
        lab.run('fio', '--name=t', '--directory=' + where, '--size=48m',
                '--rw=randwrite', '--bs=4k-64k', '--verify=crc32c',
                '--verify_fatal=1', '--verify_state_save=0', '--fsync=64',
                '--ioengine=psync', *how)

    def file_system(self, make, check, kind):
        rsvd.make_disk(self.image, SIZE, kind)
        with self.attached() as device:
            lab.run(*make, device)
            with self.mounted(device) as where:
                self.fio(where, '--do_verify=1', '--numjobs=2')
                lab.run('cp', '-r', '/usr/share/python3', where)
                os.unlink(where + '/t.1.0')
            before = lab.blocks(self.image)
            with self.mounted(device) as where:
                lab.run('fstrim', where)
            # A fixed disk keeps its blocks.
            freed = before - lab.blocks(self.image)
            self.assertEqual(kind == 'dynamic', freed > 32 * lab.MIB, freed)
            lab.run(*check, device)
        # What no cache of the kernel has any more.
        with self.attached() as device:
            lab.run(*check, device)
            with self.mounted(device) as where:
                self.fio(where, '--verify_only=1')
                lab.run('diff', '-r', '/usr/share/python3',
                        where + '/python3')
        lab.run('qemu-img', 'check', self.image)

    def test_ext4_on_a_dynamic_disk(self):
        self.file_system(['mkfs.ext4', '-q', '-F'],
                         ['e2fsck', '-f', '-n'], 'dynamic')

    def test_xfs_on_a_dynamic_disk(self):
        self.file_system(['mkfs.xfs', '-q', '-f'], ['xfs_repair', '-n'],
                         'dynamic')

    def test_ext4_on_a_fixed_disk(self):
        self.file_system(['mkfs.ext4', '-q', '-F'],
                         ['e2fsck', '-f', '-n'], 'fixed')

    def test_a_refused_write_is_an_error_of_the_device(self):
        other = self.disk()
        self.good(other.pr_out(rsvd.REGISTER, action_key=7))
        self.good(other.pr_out(rsvd.RESERVE, rsvd.WE, 7))
        device = self.attach()
        try:
            self.assertEqual(bytes(4096), lab.content(device, 0, 4096))
            with open(device, 'r+b') as file:
                file.write(lab.pattern(4096))
                file.flush()
                with self.assertRaises(OSError) as caught:
                    os.fsync(file.fileno())
            self.assertEqual(errno.EIO, caught.exception.errno)
        finally:
            self.detach(device)
        self.assertIn(PLUGIN + ': pwrite: error: ', self.failures())


if __name__ == '__main__':
    unittest.main()
