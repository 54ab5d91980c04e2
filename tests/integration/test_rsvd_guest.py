"""File systems of the kernel on a shared disk: made, filled with data that
fio verifies, checked, and read again after everything was closed."""

import os
import subprocess
import time
import unittest

import lab
import nbd_server
import rsvd

SIZE = 512 * lab.MIB


class Guest(rsvd.Case):

    def attach(self, disk):
        """A loop device for a shared disk."""
        folder = self.server.directory
        path = folder + '/nbd'
        if os.path.exists(path):
            os.unlink(path)
        self.nbd = nbd_server.Server(disk, SIZE, path)
        self.nbd.start()
        file = folder + '/fuse'
        if not os.path.exists(file):
            os.mkdir(file)
        self.fuse = subprocess.Popen(
            ['nbdfuse', file, '--unix', path],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(200):
            if os.path.exists(file + '/nbd'):
                break
            time.sleep(0.05)
        else:
            self.fail('nbdfuse: %s' % self.fuse.stderr.read1(2000))
        return lab.run('losetup', '-f', '--show', '--direct-io=off',
                       file + '/nbd').strip()

    def detach(self, device):
        lab.run('losetup', '-d', device)
        for _ in range(100):
            if 'busy' not in lab.run('fusermount3', '-u',
                                     self.server.directory + '/fuse',
                                     check=False):
                break
            time.sleep(0.1)
        self.fuse.wait(20)
        self.nbd.close()
        self.assertEqual([], self.nbd.failures)

    def file_system(self, make, check, kind):
        rsvd.make_disk(self.path('disk.vhdx'), SIZE, kind)
        mount = self.server.directory + '/mount'
        os.mkdir(mount)
        disk = self.disk()
        device = self.attach(disk)
        try:
            lab.run(*make, device)
            lab.run('mount', device, mount)
            try:
                lab.run('fio', '--name=t', '--directory=' + mount,
                        '--size=48m', '--rw=randwrite', '--bs=4k-64k',
                        '--verify=crc32c', '--do_verify=1',
                        '--verify_state_save=0', '--fsync=64',
                        '--ioengine=psync')
                os.unlink(mount + '/t.0.0')
                lab.run('cp', '-r', '/usr/share/python3', mount)
                lab.run('fstrim', mount, check=False)
            finally:
                lab.run('umount', mount)
            lab.run(*check, device)
        finally:
            self.detach(device)
        disk.close()
        disk = self.disk()
        device = self.attach(disk)
        try:
            lab.run(*check, device)
            lab.run('mount', '-o', 'ro', device, mount)
            try:
                lab.run('diff', '-r', '/usr/share/python3',
                        mount + '/python3')
            finally:
                lab.run('umount', mount)
        finally:
            self.detach(device)
        disk.close()
        os.rmdir(mount)
        lab.run('qemu-img', 'check', self.path('disk.vhdx'))

    def test_ext4_on_a_dynamic_disk(self):
        self.file_system(['mkfs.ext4', '-q', '-F'],
                         ['e2fsck', '-f', '-n'], 'dynamic')

    def test_xfs_on_a_dynamic_disk(self):
        self.file_system(['mkfs.xfs', '-q', '-f'], ['xfs_repair', '-n'],
                         'dynamic')

    def test_ext4_on_a_fixed_disk(self):
        self.file_system(['mkfs.ext4', '-q', '-F'],
                         ['e2fsck', '-f', '-n'], 'fixed')


if __name__ == '__main__':
    unittest.main()
