"""On the clients' machine of "./lab cluster up": persistent opens of shared
disks.  Who loses his node finds all of it through another: registrations,
reservation, attentions, stored errors; and nobody got in meanwhile."""

import time
import unittest
import uuid

import handles
import lab
import rsvd
import smb2
from cluster_handles import follower
from cluster_sets import OnNodes
from nodes import ADDRESS, cluster
from rsvd import CONFLICT, IGNORE, PREEMPT, RESERVE, WE, WE_RO

MIB = 1 << 20


@unittest.skipIf(lab.SERIES < (4, 22), 'no handles on a cluster of it')
class Kept(OnNodes, rsvd.Case):
    """A persistent shared open goes from node to node."""

    def make(self, kind, make):
        self.name = 't/disk' + kind
        make(self.path(self.name[2:]))

    def on(self, node, **how):
        tree = self.server.through(node)
        self.connections.append(tree.connection)
        return self.disk(self.name, tree=tree, version=2, **how)

    def kept(self, node, **how):
        guid = uuid.uuid4().bytes
        disk = self.on(node, contexts=[handles.dh2q(guid)], **how)
        disk.guid = guid
        self.assertEqual(b'DH2Q', disk.answers[0][0])
        self.assertEqual(2, disk.answers[0][1][4])
        return disk

    def back(self, disk, node, seconds=60):
        """The same client, through another node, as soon as it may."""
        end = time.monotonic() + seconds
        disk.tree.connection.close()
        while True:
            connection = None
            try:
                connection = smb2.Connection(
                    445, ADDRESS[node], seconds, guid=disk.tree.connection.guid)
                self.connections.append(connection)
                tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'),
                                 'coherent')
                again = rsvd.Disk(tree, self.name, context=b'', contexts=[
                    handles.dh2c(disk.id, disk.guid)])
                break
            except (OSError, smb2.StatusError) as error:
                if connection is not None:
                    # Else it might be answered there later.
                    connection.close()
                if time.monotonic() > end or getattr(
                        error, 'status', None) not in (
                            None, smb2.FILE_NOT_AVAILABLE):
                    raise
                time.sleep(0.2)
        again.initiator, again.guid = disk.initiator, disk.guid
        self.assertEqual(disk.id[:8], again.id[:8])
        return again

    def kept_out(self, node):
        tree = self.server.through(node)
        self.connections.append(tree.connection)
        with self.assertRaises(smb2.StatusError):
            tree.create(self.name)

    def test_all_of_it_comes_back_through_another_node(self):
        self.make('.vhdx', rsvd.make_disk)
        disk, other = self.kept(0), self.kept(1)
        self.good(disk.pr_out(IGNORE, 0, 0, 7))
        self.good(other.pr_out(IGNORE, 0, 0, 8))
        self.good(disk.pr_out(RESERVE, WE, 7))
        self.expect(rsvd.STORED + 1, disk.read_status(1 << 40, 512)[0])
        data = lab.pattern(65536, 9)
        self.expect(0, disk.write_status(MIB - 4096, data))
        disk.tree.connection.close()
        time.sleep(0.5)
        # His place in the fence is another's, his registration is not.
        new = self.on(0)
        self.expect(CONFLICT, new.write_status(0, bytes(512)))
        self.kept_out(1)
        again = self.back(disk, 2)
        self.assertEqual([7, 8], again.keys()[1])
        self.assertEqual((7, WE), again.reservation())
        self.expect(0, again.write_status(0, bytes(512)))
        self.assertEqual((0, data), again.read_status(MIB - 4096, 65536))
        self.assertEqual((1, 0x86, 2), tuple(again.tunnel(
            rsvd.SRB_STATUS, bytes([1]) + bytes(27))[2][:3]))
        self.expect(CONFLICT, other.write_status(0, bytes(512)))
        for one in (new, again, other):
            one.close()
        tree = self.server.through(1)
        self.connections.append(tree.connection)
        tree.create(self.name).close()

    def test_a_frozen_node(self):
        """Until it wakes nobody has what it has; then it has nothing."""
        node = follower()
        self.make('.vhdx', rsvd.make_disk)
        disk, other = self.kept(node), self.on(1)
        old = lab.pattern(65536, 1)
        self.good(disk.pr_out(IGNORE, 0, 0, 7))
        self.good(disk.pr_out(RESERVE, WE, 7))
        self.expect(0, disk.write_status(0, old))
        cluster('freeze-node', str(node))
        try:
            # It finds them when it wakes.
            for at in range(0, 65536, 4096):
                disk.write_send(at, b'z' * 4096)
            with self.assertRaises((OSError, smb2.StatusError)):
                self.back(disk, 1, 7)
            self.expect(CONFLICT, other.write_status(0, bytes(512)))
        finally:
            cluster('thaw-node', str(node))
        again = self.back(disk, 1)
        self.assertEqual((7, WE), again.reservation())
        self.assertEqual((0, old), again.read_status(0, 65536))
        self.expect(0, again.write_status(0, bytes(4096)))
        time.sleep(1)
        self.assertEqual((0, bytes(4096) + old[4096:]),
                         other.read_status(0, 65536))
        again.close()

    def test_a_node_dies(self):
        self.make('.vhds', rsvd.make_set)
        disk, other = self.kept(2), self.on(1)
        self.good(disk.pr_out(IGNORE, 0, 0, 7))
        self.good(other.pr_out(IGNORE, 0, 0, 8))
        self.good(disk.pr_out(RESERVE, WE_RO, 7))
        cluster('kill-node', '2')
        try:
            self.expect(0, other.write_status(0, lab.pattern(512, 1)))
            third = self.on(0)
            self.expect(CONFLICT, third.write_status(0, bytes(512)))
            self.kept_out(0)
            self.good(other.pr_out(PREEMPT, WE_RO, 8, 7))
            third.close()
            again = self.back(disk, 0)
            # The attention that it missed, and then the conflict.
            self.sense(0x062A05, again.scsi([0]))
            self.assertEqual((8, WE_RO), again.reservation())
            self.expect(CONFLICT, again.write_status(0, bytes(512)))
            self.assertEqual((0, lab.pattern(512, 1)),
                             again.read_status(0, 512))
            other.tree.connection.close()
            # Nobody but who waits has the disk: it stays attached.
            self.good(again.pr_out(IGNORE, 0, 0, 9))
            again.tree.connection.close()
        finally:
            cluster('start-node', '2')
        again = self.back(again, 2)
        self.assertEqual([8, 9], again.keys()[1])
        again.close()


if __name__ == '__main__':
    unittest.main()
