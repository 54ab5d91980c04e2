"""Shared opens outlive their connection, their smbd and all of smbd: nobody
else gets at the file meanwhile, and reservations, registrations, attentions
and stored errors are there when the client is back."""

import os
import signal
import time
import unittest
import uuid

import handles
import lab
import rsvd
import smb2
from rsvd import CONFLICT, IGNORE, PREEMPT, RESERVE, WE, WE_RO

SECTOR = 512


class Persistent(rsvd.Case):

    shares = {'vm': ['vfs objects = hvrs', 'hvrs:shared disks = yes',
                     'hvrs:persistent handles = yes'],
              'vmraw': ('/srv/xfs/vm', [])}

    def kept(self, initiator=True, **how):
        """A persistent shared open of a client of its own."""
        guid = uuid.uuid4().bytes
        connection = smb2.Connection(self.server.port)
        self.connections.append(connection)
        tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'vm')
        disk = self.disk(tree=tree, initiator=initiator,
                         contexts=[handles.dh2q(guid)], **how)
        disk.guid = guid
        self.assertEqual(b'DH2Q', disk.answers[0][0])
        self.assertEqual(2, disk.answers[0][1][4])
        self.assertEqual(rsvd.CONTEXT, disk.answers[1][0])
        return disk

    def back(self, disk, contexts=()):
        """The same client again."""
        deadline = time.monotonic() + 20
        while True:
            try:
                connection = smb2.Connection(
                    self.server.port, guid=disk.tree.connection.guid)
                self.connections.append(connection)
                tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'),
                                 'vm')
                break
            except OSError:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)
        again = rsvd.Disk(tree, 't/disk.vhdx', context=b'', contexts=[
            handles.dh2c(disk.id, disk.guid)] + list(contexts))
        again.initiator = disk.initiator
        again.guid = disk.guid
        self.assertEqual(disk.id[:8], again.id[:8])
        return again

    def lose(self, disk, how):
        if how == 'connection':
            disk.tree.connection.close()
            time.sleep(0.2)
        elif how == 'child':
            os.kill(rsvd.server_process(self.server, disk), signal.SIGKILL)
            time.sleep(0.2)
        else:
            self.server.kill()
            self.server.start()

    def test_without_the_device_context(self):
        """Microsoft's ReconnectSharedVHDWithoutDeviceContext."""
        disk = self.kept(initiator=None, options=0x40)
        self.lose(disk, 'connection')
        again = self.back(disk)
        smb, status, _ = again.tunnel(rsvd.CHECK_CONNECTION)
        self.assertEqual((0, 0), (smb, status))

    def test_with_the_device_context(self):
        disk = self.kept()
        self.lose(disk, 'connection')
        again = self.back(disk, [(rsvd.CONTEXT, rsvd.open_context(
            disk.initiator))])
        self.expect(0, again.write_status(0, bytes(SECTOR)))

    def keeps_everything(self, how):
        disk = self.kept()
        self.good(disk.pr_out(IGNORE, 0, 0, 7))
        self.good(disk.pr_out(RESERVE, WE_RO, 7))
        data = lab.pattern(65536, 9)
        self.expect(0, disk.write_status(lab.MIB - 4096, data))
        self.lose(disk, how)
        for share in ('vm', 'vmraw'):
            with self.assertRaises(smb2.StatusError):
                self.connect(share).create('t/disk.vhdx')
        other = self.other()
        self.assertEqual((7, WE_RO), other.reservation())
        self.expect(CONFLICT, other.write_status(0, bytes(SECTOR)))
        self.good(other.pr_out(IGNORE, 0, 0, 8))
        self.good(other.pr_out(PREEMPT, WE_RO, 8, 7))
        other.close()
        again = self.back(disk)
        self.assertEqual((8, WE_RO), again_reservation(self, again))
        self.expect(CONFLICT, again.write_status(0, bytes(SECTOR)))
        self.assertEqual((0, data), again.read_status(lab.MIB - 4096, 65536))
        again.close()
        self.connect().create('t/disk.vhdx').close()

    def test_a_lost_connection(self):
        self.keeps_everything('connection')

    def test_a_killed_child(self):
        self.keeps_everything('child')

    def test_all_of_smbd_killed(self):
        self.keeps_everything('all')

    def test_a_waiting_open_keeps_the_disk_attached(self):
        """Its registrations stay though nobody has the disk open."""
        disk = self.kept()
        self.good(disk.pr_out(IGNORE, 0, 0, 7))
        self.good(disk.pr_out(RESERVE, WE, 7))
        for how in ('connection', 'all'):
            self.lose(disk, how)
            disk = self.back(disk)
            self.assertEqual((7, WE), disk.reservation())
            self.expect(0, disk.write_status(0, lab.pattern(SECTOR)))
        disk.close()
        self.assertEqual((0, []), self.other().keys())

    def test_stored_errors(self):
        disk = self.kept()
        self.expect(rsvd.STORED + 1, disk.read_status(1 << 40, SECTOR)[0])
        self.expect(rsvd.STORED + 2, disk.read_status(1 << 40, SECTOR)[0])
        self.lose(disk, 'connection')
        again = self.back(disk)
        out = again.tunnel(rsvd.SRB_STATUS, bytes([2]) + bytes(27))[2]
        self.assertEqual((2, 0x86, 2), tuple(out[:3]))
        self.expect(rsvd.STORED + 3, again.read_status(1 << 40, SECTOR)[0])

    def test_completed_writes_outlive_the_kill(self):
        disk = self.kept()
        for i in range(30):
            self.expect(0, disk.write_status(i * lab.MIB,
                                             lab.pattern(4096, i + 1)))
        self.lose(disk, 'all')
        again = self.back(disk)
        for i in range(30):
            self.assertEqual((0, lab.pattern(4096, i + 1)),
                             again.read_status(i * lab.MIB, 4096))
        again.close()
        lab.run('qemu-img', 'check', self.image)


def again_reservation(case, disk):
    """What a preempted client meets: its attention, then the state."""
    case.sense(0x062A05, disk.scsi([0]))
    return disk.reservation()


if __name__ == '__main__':
    unittest.main()
