"""EXTRACT that deletes on close: what was extracted stays, and the set goes
with its files when nobody has it open any more; all of it or nothing, wherever
smbd ends; and only by who may delete it."""

import os
import shutil
import signal
import struct
import time
import uuid

import handles
import lab
import rsvd
import smb2
from rsvd import VM
from test_rsvd_merge import MIB, NAME, Merging

ACCESS_DENIED, DELETE_PENDING = 0xC0000022, 0xC0000056
NAME_NOT_FOUND, NAME_COLLISION = 0xC0000034, 0xC0000035
CANNOT_DELETE, INVALID_PARAMETER = 0xC0000121, 0xC000000D
INVALID_PARAMETER_2 = 0xC00000F0
MAY_DELETE = rsvd.ACCESS | smb2.DELETE
DELETE_ON_CLOSE = 1


class Erasing(Merging):

    def opened(self, tree=None, access=MAY_DELETE):
        return self.disk(NAME, tree=tree, version=2, access=access)

    def folder(self):
        return sorted(os.listdir(self.path('')))

    def holds(self, name, content):
        """What a disk by itself, or with its parents, reads as."""
        raw = self.path(name + '.raw')
        lab.run('hvrs-vhd', 'convert', '--format', 'raw', self.path(name),
                raw)
        with open(raw, 'rb') as file:
            for at in range(0, content.size, MIB):
                self.assert_bytes(content.get(at, MIB), file.read(MIB),
                                  '%s at %d' % (name, at))
        os.unlink(raw)

    def filled(self):
        """A set with all kinds of files; the ids of its snapshots."""
        self.expect(0, self.main.tracking_start())
        self.put(length=3 * MIB // 2)
        idents = [self.snapshot(3) for _ in range(4)]
        self.delete(idents.pop(1))
        for suffix in ('.snapshots', '.changes', '.unfinished'):
            self.assertIn('rsvd.vhds' + suffix, self.folder())
        return idents

    def gone(self, *left):
        """The set and all that is its own, and nothing else."""
        lab.until(lambda: self.folder() == sorted(left))
        self.assertEqual(sorted(left), self.folder())
        with self.assertRaises(smb2.StatusError) as caught:
            self.opened(self.connect())
        self.expect(NAME_NOT_FOUND, caught.exception.status)

    def stays(self):
        """Whole, for a new client, also when it has lain for a while."""
        self.tree = self.connect()
        self.main = self.opened(self.connect())
        self.check()
        time.sleep(1.5)
        self.check()


class Close(Erasing):

    def test_the_set_goes_with_its_files(self):
        rsvd.make_disk(self.path('other.vhdx'))
        rsvd.make_set(self.path('rsvd2.vhds'), MIB)
        os.mkdir(self.path('rsvd_folder'))
        others = [n for n in self.folder() if n.startswith(
            ('other', 'rsvd2', 'rsvd_folder', 'disk'))]
        idents = self.filled()
        wanted = self.then[idents[1]]
        self.expect(0, self.main.extract('kept.vhdx', idents[1],
                                         flags=DELETE_ON_CLOSE))
        # Until it is closed it is a set like any other.
        self.put()
        self.snapshot()
        self.check()
        self.main.close()
        self.gone('kept.vhdx', *others)
        self.holds('kept.vhdx', wanted)
        lab.run('hvrs-vhd', 'check', self.path('kept.vhdx'))
        lab.run('hvrs-vhd', 'check', self.path('rsvd2.vhds'))
        # The name is free, and knows nothing of the old one.
        rsvd.make_set(self.path('rsvd.vhds'))
        self.main = self.opened(self.connect())
        self.now, self.then = type(self.now)(), {}
        self.snapshot()
        self.check()

    def test_what_another_disk_is_made_on_stays(self):
        idents = self.filled()
        before = self.parts()
        self.expect(0, self.main.extract('diff', idents[2], idents[0],
                                         flags=DELETE_ON_CLOSE))
        self.expect(0, self.main.extract('older.vhdx', idents[1], idents[0]))
        self.main.close()
        self.gone('diff', 'older.vhdx', 'disk.vhdx', *self.parts())
        left = self.parts()
        self.assertTrue(0 < len(left) < len(before), (before, left))
        self.holds('diff', self.then[idents[2]])
        self.holds('older.vhdx', self.then[idents[1]])

    def test_the_last_one_who_closes_it(self):
        ident = self.snapshot()
        other = self.opened(self.connect(), rsvd.ACCESS)
        self.expect(0, self.main.extract('x.vhdx', ident,
                                         flags=DELETE_ON_CLOSE))
        third = self.opened(self.connect())
        third.close()
        self.main.close()
        with self.assertRaises(smb2.StatusError) as caught:
            self.opened(self.connect())
        self.expect(DELETE_PENDING, caught.exception.status)
        self.put(disk=other)
        self.whole(other, self.now, 'the disk')
        old = self.then[ident]
        other.close()
        self.gone('x.vhdx', 'disk.vhdx')
        self.holds('x.vhdx', old)

    def test_a_lost_connection(self):
        ident = self.snapshot()
        self.expect(0, self.main.extract('x.vhdx', ident,
                                         flags=DELETE_ON_CLOSE))
        self.main.tree.connection.close()
        self.gone('x.vhdx', 'disk.vhdx')
        self.holds('x.vhdx', self.then[ident])

    def test_without_the_flag(self):
        ident = self.snapshot()
        self.expect(0, self.main.extract('x.vhdx', ident))
        self.main.close()
        self.stays()


class Refused(Erasing):

    def refused(self, status, disk, source=None, **how):
        before = self.folder()
        self.expect(status, disk.extract('x.vhdx', source or self.ident,
                                         flags=DELETE_ON_CLOSE, **how))
        self.assertEqual(before, self.folder())

    def setUp(self):
        super().setUp()
        self.ident = self.snapshot()
        # The notes of the snapshot go a moment after its answer.
        self.assertTrue(lab.until(
            lambda: 'rsvd.vhds.unfinished' not in self.folder()))

    def test_a_handle_without_the_right(self):
        self.main.close()
        self.main = self.opened(access=rsvd.ACCESS)
        self.refused(ACCESS_DENIED, self.main)
        self.main.close()
        self.stays()

    def test_a_user_without_the_right(self):
        self.main.close()
        # Anybody may make files here, and nobody delete another's.
        os.chown(self.path(''), 0, 0)
        os.chmod(self.path(''), 0o1777)
        os.chown(self.path('rsvd.vhds'), 0, 0)
        os.chmod(self.path('rsvd.vhds'), 0o666)
        with self.assertRaises(smb2.StatusError) as caught:
            self.opened(self.connect())
        self.expect(ACCESS_DENIED, caught.exception.status)
        for access in (rsvd.ACCESS, rsvd.ACCESS | 0x02000000):
            disk = self.opened(self.connect(), access)
            self.expect(ACCESS_DENIED, disk.extract(
                'x.vhdx', self.ident, flags=DELETE_ON_CLOSE))
            disk.close()
        disk = self.opened(self.connect(), rsvd.ACCESS)
        self.expect(0, disk.extract('y.vhdx', self.ident))
        disk.close()
        os.unlink(self.path('y.vhdx'))
        shutil.chown(self.path(''), 'hvrs', 'hvrs')
        # All that there is to be had is had by the one who may.
        disk = self.opened(self.connect(), rsvd.ACCESS | 0x02000000)
        self.expect(0, disk.extract('x.vhdx', self.ident,
                                    flags=DELETE_ON_CLOSE))
        disk.close()
        self.gone('x.vhdx', 'disk.vhdx')

    def test_a_set_for_reading_only(self):
        plain = self.connect()
        file = plain.create(NAME, access=0x180)
        lab.run('setfattr', '-n', 'user.DOSATTRIB', '-v', '0x' + (
            b'\0\0\x05\0\x05\0\0\0\1\0\0\0\1\0\0\0' + bytes(8)).hex(),
            self.path('rsvd.vhds'))
        file.close()
        disk = self.opened(self.connect(), MAY_DELETE & ~2)
        self.refused(CANNOT_DELETE, disk)

    def test_what_makes_no_sense(self):
        self.refused(INVALID_PARAMETER_2, self.main, kind=rsvd.WRITEABLE)
        self.refused(INVALID_PARAMETER, self.main, source=uuid.uuid4())
        self.main.close()
        self.stays()

    def test_one_that_fails_half_way(self):
        self.server.die_at('stop-extract-noted')
        sent = self.main.meta_send(rsvd.EXTRACT, struct.pack(
            '<III', VM, 0, DELETE_ON_CLOSE) + self.ident.bytes_le +
            bytes(16) + rsvd.name_data('x.vhdx'))
        self.assertTrue(lab.until(
            lambda: self.server.has_died('stop-extract-noted')))
        with open(self.path('x.vhdx'), 'w') as file:
            file.write('in the way')
        os.kill(rsvd.server_process(self.server, self.main), signal.SIGCONT)
        self.assertEqual((0, NAME_COLLISION), self.main.tunnel_end(sent)[:2])
        self.main.close()
        self.stays()
        with open(self.path('x.vhdx')) as file:
            self.assertEqual('in the way', file.read())

    def test_where_it_cannot_be_told_what_is_needed(self):
        with open(self.path('torn.vhdx'), 'wb') as file:
            file.write(b'vhdxfile' + bytes(8 * MIB))
        self.expect(0, self.main.extract('x.vhdx', self.ident,
                                         flags=DELETE_ON_CLOSE))
        self.main.close()
        self.stays()


class Killed(Erasing):

    def extracted(self):
        ident = self.filled()[0]
        self.expect(0, self.main.extract('x.vhdx', ident,
                                         flags=DELETE_ON_CLOSE))
        return self.then[ident]

    def test_all_of_smbd_before_the_close(self):
        """A plain open ends with its smbd: nothing was closed."""
        wanted = self.extracted()
        self.server.kill()
        self.server.start()
        self.stays()
        self.main.close()
        self.stays()
        self.holds('x.vhdx', wanted)

    def closed_at(self, step):
        self.server.die_at(step)
        with self.assertRaises((OSError, struct.error, smb2.StatusError)):
            self.main.close()
        self.assertTrue(self.server.has_died(step))
        self.server.kill()
        self.server.start()

    def test_before_the_name_goes(self):
        wanted = self.extracted()
        self.closed_at('erase-noted')
        self.stays()
        # Notes of what it still names are no harm to it.
        for ident in list(self.then):
            self.delete(ident)
        self.optimize()
        self.stays()
        self.holds('x.vhdx', wanted)

    def test_after_the_name_went(self):
        for step in ('erase-gone', 'erase-file'):
            wanted = self.extracted()
            self.closed_at(step)
            self.assertTrue(self.parts())
            self.assertNotIn('rsvd.vhds', self.folder())
            with self.assertRaises(smb2.StatusError) as caught:
                self.opened(self.connect())
            self.expect(NAME_NOT_FOUND, caught.exception.status)
            self.gone('x.vhdx', 'disk.vhdx')
            self.holds('x.vhdx', wanted)
            os.unlink(self.path('x.vhdx'))
            self.again()

    def again(self):
        rsvd.make_set(self.path('rsvd.vhds'))
        self.tree = self.connect()
        self.main = self.opened(self.connect())
        self.now, self.then = type(self.now)(), {}

    def test_another_set_of_that_name_comes_after_it(self):
        for make in (self.by_convert, self.by_tool):
            self.extracted()
            self.closed_at('erase-gone')
            os.unlink(self.path('x.vhdx'))
            make()
            self.tree = self.connect()
            self.main = self.opened(self.connect())
            self.snapshot()
            self.check()
            self.until(2)
            self.main.close()
            lab.run('hvrs-vhd', 'check', self.path('rsvd.vhds'))
            self.main = self.opened(self.connect())

    def by_convert(self):
        rsvd.make_disk(self.path('new.vhdx'))
        disk = self.disk('t/new.vhdx', tree=self.connect(), version=2)
        self.expect(0, disk.meta(rsvd.CONVERT, rsvd.name_data('rsvd.vhds')))
        disk.close()
        self.now, self.then = type(self.now)(), {}

    def by_tool(self):
        rsvd.make_set(self.path('rsvd.vhds'))
        self.now, self.then = type(self.now)(), {}

    def test_a_set_that_was_moved_away_loses_nothing(self):
        self.extracted()
        self.server.kill()
        self.server.start()
        os.rename(self.path('rsvd.vhds'), self.path('away'))
        before = self.folder()
        with self.assertRaises(smb2.StatusError):
            self.opened(self.connect())
        self.assertEqual(before, self.folder())
        os.rename(self.path('away'), self.path('rsvd.vhds'))
        self.stays()


class Persistent(Erasing):
    """The handle outlives its connection and smbd, and what it promised."""
    shares = {'vm': ['vfs objects = hvrs', 'hvrs:shared disks = yes',
                     'hvrs:persistent handles = yes']}
    timeout = 0

    def opened(self, tree=None, access=MAY_DELETE):
        guid = uuid.uuid4().bytes
        connection = smb2.Connection(self.server.port)
        self.connections.append(connection)
        tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'vm')
        disk = self.disk(NAME, tree=tree, version=2, access=access, contexts=[
            handles.dh2q(guid, timeout=self.timeout)])
        disk.guid = guid
        self.assertEqual(b'DH2Q', disk.answers[0][0])
        return disk

    def lose(self, how):
        if how == 'smbd':
            self.server.kill()
            self.server.start()
        else:
            self.main.tree.connection.close()
            time.sleep(0.3)

    def back(self):
        connection = smb2.Connection(self.server.port,
                                     guid=self.main.tree.connection.guid)
        self.connections.append(connection)
        tree = smb2.Tree(smb2.Session(connection, 'hvrs', 'hvrs'), 'vm')
        again = rsvd.Disk(tree, NAME, context=b'', contexts=[
            handles.dh2c(self.main.id, self.main.guid)])
        again.guid = self.main.guid
        self.main, self.tree = again, self.connect()

    def test_it_is_closed_after_all(self):
        for how in ('connection', 'smbd'):
            ident = self.snapshot()
            self.expect(0, self.main.extract('x.vhdx', ident,
                                             flags=DELETE_ON_CLOSE))
            self.lose(how)
            self.back()
            self.check()
            self.main.close()
            self.gone('x.vhdx', 'disk.vhdx')
            self.holds('x.vhdx', self.then[ident])
            os.unlink(self.path('x.vhdx'))
            rsvd.make_set(self.path('rsvd.vhds'))
            self.main = self.opened()
            self.now, self.then = type(self.now)(), {}

    def test_the_right_comes_back(self):
        for access, status in ((MAY_DELETE, 0),
                               (rsvd.ACCESS, ACCESS_DENIED)):
            self.main.close()
            self.main = self.opened(access=access)
            ident = self.snapshot()
            self.lose('smbd')
            self.back()
            self.expect(status, self.main.extract(
                'x.vhdx', ident, flags=DELETE_ON_CLOSE))
            self.main.close()
            if status == 0:
                self.gone('x.vhdx', 'disk.vhdx')
                os.unlink(self.path('x.vhdx'))
                rsvd.make_set(self.path('rsvd.vhds'))
                self.now, self.then = type(self.now)(), {}
                self.main = self.opened()
        self.stays()

    def test_nobody_comes_back(self):
        self.main.close()
        self.timeout = 1000
        self.main = self.opened()
        idents = self.filled()
        self.expect(0, self.main.extract('diff.vhdx', idents[2], idents[0],
                                         flags=DELETE_ON_CLOSE))
        self.lose('connection')
        self.assertTrue(lab.until(
            lambda: 'rsvd.vhds' not in self.folder(), 20))
        self.gone('diff.vhdx', 'disk.vhdx', *self.parts())
        self.assertEqual(1, len(self.parts()))
        self.holds('diff.vhdx', self.then[idents[2]])
