"""A member of an Active Directory ("lab up --ad"): hosts log on with Kerberos
as machine accounts, and rights are the domain's."""

import os
import struct
import subprocess
import unittest
import uuid

from samba.dcerpc import security
from samba.ndr import ndr_pack, ndr_unpack

import fsctl
import fsrvp
import handles
import lab
import smb2
from smb2 import ACCESS_DENIED, OK

NAME = 'hvrs-lab.hvrs.test'
HOST, PASSWORD = 'HOST1$', 'host1'
# A virtual machine's SID, as Hyper-V puts it on the machine's disks.
MACHINE = 'S-1-5-83-1-1234567890-1122334455-987654321-555555555'


ALL = 0x001F01FF


@unittest.skipUnless(os.path.exists('/lab/ad'), 'wants "lab up --ad"')
class Domain(lab.Case):
    shares = {'vm': ['vfs objects = acl_xattr hvrs', 'map acl inherit = yes'],
              'sealed': (lab.DIRECTORIES['vm'],
                         ['vfs objects = acl_xattr hvrs',
                          'server smb encrypt = required'])}
    settings = ['registry shares = yes']

    def setUp(self):
        super().setUp()
        os.chmod(self.directory, 0o777)

    def host(self, share='vm', guid=None):
        """A tree of the machine account, by Kerberos alone."""
        connection = smb2.Connection(self.server.port, guid=guid)
        self.connections.append(connection)
        return smb2.Tree(smb2.Session(connection, HOST, PASSWORD,
                                      kerberos=NAME), share)

    def client(self, program, share, *words, user=HOST, password=PASSWORD):
        done = subprocess.run(
            [program, '-p', str(self.server.port), '-U',
             '%s%%%s' % (user, password), '--use-kerberos=required', *words,
             '//%s/%s' % (NAME, share)], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.returncode, done.stdout

    def acl(self, file):
        """The DACL, as SDDL."""
        body = struct.pack('<HBBIHHIII16sB', 41, 3, 0, 65536, 0, 0, 0, 4, 0,
                           file.id, 0)
        reply = self.tree.call(smb2.QUERY_INFO, body)
        self.expect(OK, reply.status)
        start, length = struct.unpack_from('<HI', reply.body, 2)
        return ndr_unpack(security.descriptor, reply.body[
            start - 64:start - 64 + length]).as_sddl()

    def set_acl(self, file, *sids):
        """Full access for these and for nobody else.  (To Samba 4.17 "FA" of
        SDDL is without the rights that files share with all else.)"""
        data = ndr_pack(security.descriptor.from_sddl(
            'D:P' + ''.join('(A;;0x%x;;;%s)' % (ALL, sid) for sid in sids),
            security.dom_sid('S-1-5-21-1-2-3')))
        body = struct.pack('<HBBIHHI16s', 33, 3, 0, len(data), 96, 0, 4,
                           file.id) + data
        self.expect(OK, self.tree.call(smb2.SET_INFO, body).status)

    def test_a_host_opens_trims_clones_and_comes_back(self):
        guid, create = uuid.uuid4().bytes, uuid.uuid4().bytes
        tree = self.host(guid=guid)
        data = lab.pattern(4 * lab.MIB, 3)
        file = tree.create('t/disk.vhdx', oplock=0xFF, contexts=[
            handles.lease(create, handles.R | handles.H | handles.W),
            handles.dh2q(create)])
        self.assertEqual(handles.PERSISTENT, handles.granted(file)[1])
        file.write(0, data)
        self.expect_fsctl(OK, file, fsctl.FILE_LEVEL_TRIM,
                          fsctl.trim((lab.MIB, lab.MIB)), 4)
        target = tree.create('t/clone.vhdx')
        target.write(0, b'\0')
        lab.run('truncate', '-s', str(len(data)), self.path('clone.vhdx'))
        self.expect_fsctl(OK, target, fsctl.DUPLICATE_EXTENTS,
                          fsctl.clone(file, 0, 0, len(data)))
        wanted = data[:lab.MIB] + bytes(lab.MIB) + data[2 * lab.MIB:]
        self.assert_bytes(wanted, target.read(0, len(wanted)))
        self.server.kill()
        self.server.start()
        tree = self.host(guid=guid)
        back = tree.create('t/disk.vhdx', oplock=0xFF, contexts=[
            handles.dh2c(file.id, create),
            handles.lease(create, handles.R | handles.H | handles.W)])
        self.assert_bytes(wanted, back.read(0, len(wanted)))
        back.write(5, b'again')
        # Another user's is no way to the handle of the host.
        self.server.kill()
        self.server.start()
        connection = smb2.Connection(self.server.port, guid=guid)
        self.connections.append(connection)
        tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs',
                                      kerberos=NAME), 'vm')
        with self.assertRaises(smb2.StatusError):
            tree.create('t/disk.vhdx', oplock=0xFF, contexts=[
                handles.dh2c(back.id, create),
                handles.lease(create, 7)])
        # What waits for its owner would keep others from a reused inode.
        self.host(guid=guid).create('t/disk.vhdx', oplock=0xFF, contexts=[
            handles.dh2c(back.id, create), handles.lease(create, 7)]).close()

    def channel(self, tree, guid):
        """One more way to a tree whose session is signed, by Kerberos."""
        connection = smb2.Connection(self.server.port, guid=guid)
        self.connections.append(connection)
        return tree.through(smb2.Session(connection, HOST, PASSWORD,
                                         kerberos=NAME, bound=tree.session))

    def through_all(self, files, seed):
        """What each channel writes, every channel reads."""
        for i, file in enumerate(files):
            data = lab.pattern(300000, seed + i)
            file.write(i * len(data), data)
            for other in files:
                self.assert_bytes(data, other.read(i * len(data), len(data)))

    def test_two_channels(self):
        guid, create, key = (uuid.uuid4().bytes for _ in range(3))
        lease = handles.lease(key, handles.R | handles.H | handles.W)
        tree = self.host(guid=guid)
        tree.session.sign()
        trees = [tree, self.channel(tree, guid)]
        self.assertEqual(*(handles.child_of(self.server, one)
                           for one in trees))
        file = tree.create('t/disk.vhdx', oplock=0xFF, sharing=0, contexts=[
            handles.dh2q(create), lease])
        self.assertEqual(handles.PERSISTENT, handles.granted(file)[1])
        files = [file.through(tree) for tree in trees]
        self.through_all(files, 1)
        self.expect(OK, files[1].lock(0, 1))
        # The first one goes, and that is no loss of the handle.
        trees[0].connection.close()
        self.through_all(files[1:], 3)
        stranger = self.host()
        asked = stranger.create_send('t/disk.vhdx')
        notice = trees[1].connection.receive()
        self.assertEqual((smb2.OPLOCK_BREAK, key),
                         (notice.command, notice.body[8:24]))
        self.expect(OK, trees[1].call(smb2.OPLOCK_BREAK, struct.pack(
            '<HHI16sIQ', 36, 0, 0, key, handles.R | handles.W, 0)).status)
        self.expect(smb2.SHARING_VIOLATION,
                    stranger.connection.wait(asked).status)
        # It comes again, and then smbd ends below both.
        trees[0] = self.channel(tree, guid)
        self.through_all([file.through(tree) for tree in trees], 5)
        self.server.kill()
        self.server.start()
        with self.assertRaises(smb2.StatusError) as caught:
            self.host().create('t/disk.vhdx')
        self.expect(smb2.FILE_NOT_AVAILABLE, caught.exception.status)
        tree = self.host(guid=guid)
        tree.session.sign()
        file = tree.create('t/disk.vhdx', oplock=0xFF, contexts=[
            handles.dh2c(file.id, create), lease])
        self.assert_bytes(lab.pattern(300000, 5), file.read(0, 300000))
        files = [file, file.through(self.channel(tree, guid))]
        self.through_all(files, 7)
        # The lock is there, and whoever has it may let go of it.
        self.expect(smb2.LOCK_NOT_GRANTED, files[0].lock(0, 1))
        self.expect(OK, files[1].lock(0, 1, unlock=True))
        self.expect(OK, files[1].close())

    def test_signed_and_sealed(self):
        with open(self.directory + '/../in', 'wb') as file:
            file.write(lab.pattern(300000, 4))
        self.addCleanup(os.unlink, self.directory + '/../in')
        for share, protection in (('vm', 'sign'), ('vm', 'encrypt'),
                                  ('sealed', 'encrypt')):
            code, text = self.client(
                'smbclient', share, '--client-protection=' + protection,
                '-c', 'put %s/../in t/%s; get t/%s /tmp/out' % (
                    self.directory, protection, protection))
            self.assertEqual(0, code, text)
            with open('/tmp/out', 'rb') as file:
                self.assert_bytes(lab.pattern(300000, 4), file.read())

    def test_rights_of_a_machine_stay_on_its_disks(self):
        file = self.open('disk.vhdx', lab.pattern(lab.MIB, 5))
        file.close()
        file = self.open('disk.vhdx', access=ALL)
        self.set_acl(file, self.server.sid('hvrs'), MACHINE)
        before = self.acl(file)
        self.assertIn(MACHINE, before)
        for code, data in (
                (fsctl.FILE_LEVEL_TRIM, fsctl.trim((0, 65536))),
                (fsctl.SET_ZERO_DATA, fsctl.zero(65536, 131072)),
                (fsctl.SET_SPARSE, b'\1')):
            self.expect_fsctl(OK, file, code, data)
        name = 't\\moved.vhdx'.encode('utf-16-le')
        self.expect(OK, file.set_info(10, struct.pack(
            '<B7xQI', 0, 0, len(name)) + name))
        file.close()
        file = self.open('moved.vhdx', access=ALL)
        self.assertEqual(before, self.acl(file))

    def test_a_host_without_rights(self):
        file = self.open('secret.vhdx', lab.pattern(lab.MIB, 6), access=ALL)
        self.set_acl(file, self.server.sid('hvrs'))
        tree = self.host()
        for access in (smb2.READ_WRITE, smb2.READ_ONLY):
            with self.assertRaises(smb2.StatusError) as caught:
                tree.create('t/secret.vhdx', access=access)
            self.expect(ACCESS_DENIED, caught.exception.status)
        # Nor by cloning from it, with another's file id.
        target = tree.create('t/mine.vhdx')
        target.write(0, bytes(lab.MIB))
        status, _ = target.fsctl(fsctl.DUPLICATE_EXTENTS,
                                 fsctl.clone(file, 0, 0, lab.MIB))
        self.assertNotEqual(OK, status)
        self.assert_bytes(bytes(lab.MIB), target.read(0, lab.MIB))

    def test_remote_vss_is_for_administrators_of_the_domain(self):
        for user, wanted in (('hvrsadmin', fsrvp.OK),
                             ('hvrs', fsrvp.ACCESS_DENIED)):
            done = subprocess.run(
                ['rpcclient', '-U', '%s%%%s' % (user, user),
                 '--use-kerberos=required', '-p', str(self.server.port),
                 'ncacn_np:%s[sign]' % NAME, '-c', 'fss_is_path_sup vm'], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=60)
            if wanted == fsrvp.OK:
                self.assertIn('supports shadow copy requests', done.stdout,
                              self.server.text()[-3000:])
            else:
                self.assertNotIn('supports shadow copy requests', done.stdout)
                self.assertIn('0x80070005', done.stdout.lower())
