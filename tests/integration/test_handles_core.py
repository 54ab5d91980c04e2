"""Where Samba's own persistent handles are switched on for a share, they are
Samba's: a handle has one owner.  Everywhere else they are those of hvrs."""

import json
import os
import struct
import subprocess
import unittest
import uuid

import handles
import lab
import rsvd
import smb2
from handles import H, R, W, granted, lease_state
from smb2 import FILE_NOT_AVAILABLE, INVALID_DEVICE_REQUEST, OK
from test_handles_moved import RESILIENCY, Resilient

CORE = ['continuous availability = yes', 'posix locking = no',
        'kernel oplocks = no', 'kernel share modes = no']
SAYS = r"hvrs: share vm: .*persistent handles are Samba's own"


def records(server):
    """What hvrs keeps, by "hvrsctl handles"."""
    done = subprocess.run(
        ['hvrsctl', 'handles', '--json'], stdout=subprocess.PIPE, check=True,
        env=dict(os.environ, SMB_CONF_PATH=server.config))
    return json.loads(done.stdout)


@unittest.skipIf(lab.SERIES < (4, 25),
                 'this Samba has no persistent handles of its own')
class Case(handles.Case):
    settings = ('persistent handles = yes',)
    shares = {
        'vm': ['vfs objects = hvrs'] + CORE,
        'vmalias': ('/srv/xfs/vm', ['vfs objects = hvrs'] + CORE),
        'vmours': ('/srv/xfs/vm', ['vfs objects = hvrs']),
        'vmraw': ('/srv/xfs/vm', CORE),
    }


class SambaOwns(Case):
    def test_one_owner(self):
        client = self.client()
        file = client.open(self.name(), R | H | W)
        # Samba's own have no more than R, and hvrs has no record of it.
        self.assertEqual((60000, 2), granted(file))
        self.assertEqual(R, lease_state(file))
        self.assertEqual([], records(self.server))
        self.assertEqual(1, len(self.server.lines(SAYS)))
        file.close()

    def test_as_without_hvrs(self):
        """hvrs neither adds nor takes away: leases, folders, survival."""
        for way in self.WAYS:
            for folder in (False, True):
                told = []
                for share in ('vm', 'vmraw'):
                    client = self.client(share)
                    name = self.name('%s-%s-%d' % (way, share, folder))
                    how = {'options': smb2.DIRECTORY} if folder else {}
                    file = client.open(name, R | H, sharing=0, **how)
                    told.append([granted(file), lease_state(file)])
                    self.lose(way, client)
                    told[-1].append(self.stranger(share, name, **how))
                    client.connect()
                    told[-1].append(client.reconnect_status(file))
                    client.drop()
                self.assertEqual(told[0], told[1], (way, folder))
                self.assertEqual((60000, 2), told[0][0])
                self.assertEqual(OK, told[0][3], (way, folder))

    def test_locks_of_two_owners(self):
        """A file with a resilient open of ours and one of Samba's own."""
        for way in self.WAYS:
            name = self.name(way)
            theirs, ours = self.client(), self.client()
            kept = theirs.open(name)
            self.assertEqual(OK, kept.lock(0, 10))
            file = ours.tree.create(name)
            self.assertEqual((OK, b''), file.fsctl(
                RESILIENCY, struct.pack('<II', 60000, 0)))
            self.assertEqual(OK, file.lock(20, 10))
            file.name, file.key = name, None
            self.assertEqual(['resilient'],
                             [one['kind'] for one in records(self.server)])
            self.lose(way, theirs)
            if way in ('kill_all', 'restart'):
                ours.drop()
                ours.connect()
                file = Resilient.again(self, ours, file)
                # What hvrs has stored of its locks left Samba's in the copy.
                self.lose(way, ours)
                ours.connect()
                file = Resilient.again(self, ours, file)
            theirs.connect()
            kept = theirs.reconnect(kept)
            self.assertEqual(OK, kept.lock(0, 10, unlock=True), way)
            self.assertEqual(OK, file.lock(20, 10, unlock=True), way)
            kept.close()
            file.close()

    def again_send(self, client, file):
        return Resilient.again_send(self, client, file)

    def test_resilient_is_not_both(self):
        client = self.client()
        file = client.open(self.name())
        self.assertEqual(INVALID_DEVICE_REQUEST, file.fsctl(
            RESILIENCY, struct.pack('<II', 60000, 0))[0])
        self.assertEqual([], records(self.server))
        file.close()


class ResilientThere(Case, Resilient):
    """What test_handles_moved says of them holds there as well, but that a
    lease is no more than Samba gives on such a share."""
    LEASES = None, R


class OursBeside(Case):
    def test_where_the_share_is_not_samba_s(self):
        for way in self.WAYS:
            client = self.client('vmours')
            file = client.open(self.name(way), R | H | W, sharing=0)
            self.assertEqual((60000, 2), granted(file))
            self.assertEqual(R | H | W, lease_state(file))
            self.assertEqual(['persistent'],
                             [one['kind'] for one in records(self.server)])
            self.assertEqual(OK, file.lock(0, 1))
            self.lose(way, client)
            # Through a share where Samba's own would count.
            self.assertEqual(FILE_NOT_AVAILABLE,
                             self.stranger(name=self.name(way)))
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(OK, file.lock(0, 1, unlock=True), way)
            file.close()


@unittest.skipIf(lab.SERIES < (4, 25),
                 'this Samba has no persistent handles of its own')
class Disks(rsvd.Case):
    settings = ('persistent handles = yes',)
    shares = {'vm': ['vfs objects = hvrs', 'hvrs:shared disks = yes'] + CORE,
              'vmraw': ('/srv/xfs/vm', [])}

    def test_shared_disk_is_not_samba_s(self):
        """Samba would give the file back without the disk."""
        disk = self.disk(contexts=[handles.dh2q(uuid.uuid4().bytes)])
        self.assertNotIn(b'DH2Q', [tag for tag, _ in disk.answers])
        disk.close()


if __name__ == '__main__':
    unittest.main()
