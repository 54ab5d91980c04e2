"""Change tracking of VHD Sets: what is told between two snapshots is never
less than what was written, and a backup by it is whole."""

import os
import random
import struct
import time
import unittest
import uuid

import lab
import rsvd
import smb2
from rsvd import CDP, VM

KIB, MIB, GIB = 1024, lab.MIB, lab.GIB
SIZE = 256 * MIB
NAME = 't/rsvd.vhds'
NOT_INITIALIZED, CHANGED, INCONSISTENT = 0xC03A0020, 0xC03A0022, 0xC03A0024
INVALID_ID, DISABLED, MISSING = 0xC03A0029, 0xC03A002A, 0xC03A0030
INVALID_PARAMETER, INVALID_REQUEST = 0xC000000D, 0xC0000010


def covers(ranges, offset, length):
    return any(a <= offset and offset + length <= a + n for a, n in ranges)


class Tracked(rsvd.Case):
    size = SIZE

    def setUp(self):
        super().setUp()
        rsvd.make_set(self.path('rsvd.vhds'), self.size)

    def opened(self, tree=None, **how):
        return self.disk(NAME, tree=tree, version=2, **how)

    def put(self, disk, offset, seed, length=512):
        self.expect(0, disk.write_status(offset, lab.pattern(length, seed)))

    def told(self, disk, target, limit, **how):
        return disk.changes(target, limit, self.size, **how)


class Microsoft(Tracked):
    """The rows of Microsoft's suite about tracking."""

    def test_query_virtual_disk_changes(self):
        disk = self.opened()
        first = disk.snapshot()
        disk.close()
        disk = self.opened()
        self.put(disk, 0, 1)
        second = disk.snapshot()
        self.assertEqual((0, 1024, [(0, 1024)]),
                         disk.changes_page(second, first, 0, 1024,
                                           max_out=4096))
        self.expect(0, disk.delete(first))
        self.expect(0, disk.delete(second))

    def test_change_tracking(self):
        disk = self.opened()
        self.expect(0, disk.tracking_start('rsvd.vhds'))
        self.put(disk, 0, 1)
        self.assertEqual(0, disk.tracking()[0])
        self.assertEqual((0, 0), disk.tracking_stop())
        self.assertEqual(NOT_INITIALIZED, disk.tracking()[0])


class Rules(Tracked):

    def test_unknown_ids_and_untracked_snapshots(self):
        disk = self.opened()
        plain, first, second = disk.snapshot(0), disk.snapshot(), \
            disk.snapshot()
        for status, target, limit, kind in (
                (INVALID_ID, second, uuid.uuid4(), VM),
                (INVALID_ID, uuid.uuid4(), first, VM),
                (DISABLED, second, plain, VM),
                (INVALID_PARAMETER, first, second, VM),
                (INVALID_PARAMETER, second, first, CDP),
                (0, second, first, VM), (0, first, first, VM)):
            self.expect(status, disk.changes_page(
                target, limit, 0, self.size, kind)[0])

    def test_bad_bodies(self):
        disk = self.opened()
        for status, how in ((INVALID_PARAMETER, {'append': 2}),
                            (INVALID_PARAMETER, {'name': 'a\\b'}),
                            (INVALID_PARAMETER, {'name': '..'}),
                            (INVALID_PARAMETER, {'name': 'a', 'offset': 9}),
                            (INVALID_PARAMETER, {'name': 'a',
                                                 'offset': 4000000000})):
            self.expect(status, disk.tracking_start(**how))
        self.assertEqual(NOT_INITIALIZED, disk.tracking()[0])
        for operation, body, room in (
                (rsvd.TRACKING_START, bytes(55), 4096),
                (rsvd.CHANGES, bytes(55), 4096),
                (rsvd.CHANGES, bytes(56), 31),
                (rsvd.TRACKING_PARAMETERS, b'', 31),
                (rsvd.TRACKING_STOP, b'', 19), (rsvd.SAFE_SIZE, b'', 23)):
            self.expect(0xC0000023, disk.tunnel(operation, body, room)[0])

    def test_a_plain_disk_is_not_tracked(self):
        disk = self.disk()
        self.expect(INVALID_REQUEST, disk.tracking_start())
        self.expect(INVALID_REQUEST, disk.tunnel(rsvd.TRACKING_STOP)[1])
        self.assertEqual(64 * MIB, disk.safe_size())

    def test_start_is_seen_by_a_writer_of_another_client(self):
        disk, other = self.opened(), self.opened(self.connect())
        self.put(other, 0, 1)
        first = disk.snapshot()
        for i in range(50):
            self.put(other, MIB * (i + 1), i)
        second = other.snapshot()
        told = self.told(disk, second, first)
        self.assertEqual([(MIB * (i + 1), 64 * KIB) for i in range(50)], told)

    def test_all_kinds_of_writes_are_told(self):
        disk = self.opened()
        first = disk.snapshot()
        mib = MIB // 512
        self.put(disk, MIB, 1)
        self.good(disk.scsi([0x2A, 0, 0, 0, 2 * mib >> 8, 0, 0, 0, 1],
                            bytes(512)))
        self.good(disk.scsi([0x93, 0] + list(struct.pack(
            '>QI', 3 * mib, 128)), bytes(512)))
        self.good(disk.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
            '>HHIQII', 22, 16, 0, 4 * mib, 2 * mib, 0)))
        self.good(disk.scsi([0x89, 0] + list(struct.pack('>Q', 9 * mib)) +
                            [0, 0, 0, 1], bytes(512) + lab.pattern(512, 4)))
        second = disk.snapshot()
        told = self.told(disk, second, first)
        for offset, length in ((MIB, 512), (2 * MIB, 512),
                               (3 * MIB, 65536), (4 * MIB, 2 * MIB),
                               (9 * MIB, 512)):
            self.assertTrue(covers(told, offset, length), (offset, told))
        self.assertLess(sum(n for _, n in told), 4 * MIB)

    def test_a_small_buffer_gives_pages(self):
        disk = self.opened()
        first = disk.snapshot()
        for i in range(40):
            self.put(disk, i * 2 * MIB, i)
        second = disk.snapshot()
        whole = self.told(disk, second, first)
        self.assertEqual([(i * 2 * MIB, 64 * KIB) for i in range(40)], whole)
        self.assertEqual(whole, self.told(disk, second, first,
                                          max_out=32 + 24 * 3))

    def test_a_reference_point_stays_a_limit(self):
        disk = self.opened()
        first = disk.snapshot()
        self.put(disk, 5 * MIB, 1)
        self.expect(0, disk.delete(first, persist=1))
        second = disk.snapshot()
        self.assertEqual([(5 * MIB, 65536)], self.told(disk, second, first))
        self.expect(0, disk.delete(first))
        self.expect(INVALID_ID,
                    disk.changes_page(second, first, 0, 1024)[0])

    def test_going_back_is_a_change(self):
        disk = self.opened()
        first = disk.snapshot()
        self.put(disk, 5 * MIB, 1)
        second = disk.snapshot()
        self.expect(0, disk.apply(first))
        third = disk.snapshot()
        self.assertEqual([(5 * MIB, 65536)], self.told(disk, third, second))

    def test_growing_is_a_change(self):
        disk = self.opened()
        first = disk.snapshot()
        self.expect(0, disk.resize(2 * self.size))
        self.expect(rsvd.CAPACITY, disk.read_status(0, 512)[0])
        self.put(disk, 2 * self.size - 512, 1)
        second = disk.snapshot()
        self.assertEqual([(self.size, self.size)],
                         disk.changes(second, first, 2 * self.size))

    def test_cdp_lists(self):
        disk = self.opened()

        def made():
            ident = uuid.uuid4()
            smb, status, body = disk.tunnel_end(disk.meta_send(
                rsvd.SNAPSHOT, rsvd.snapshot_data(
                    ident, (1, 2, 3, 4, 5), 0, CDP, pad=0) + bytes(24)))
            self.assertEqual((0, 0, 4), (smb, status, len(body)))
            return ident, struct.unpack('<I', body)[0]

        def listed(kind):
            smb, status, body = disk.query(kind)
            self.assertEqual((0, 0), (smb, status))
            return [uuid.UUID(bytes_le=body[i:i + 16])
                    for i in range(16, len(body), 16)]
        old, state = made()
        self.assertEqual(NOT_INITIALIZED, state)
        self.expect(0, disk.tracking_start())
        (one, state), (two, _) = made(), made()
        self.assertEqual(0, state)
        self.assertEqual(([one, two], [old]), (listed(10), listed(12)))
        self.expect(rsvd.SHARING_VIOLATION, disk.delete(two, kind=CDP))
        self.expect(0, disk.delete(old, kind=CDP))
        self.expect(0, disk.delete(one, kind=CDP))
        self.assertEqual((0, 0), disk.tracking_stop())
        self.assertEqual(([], [two]), (listed(10), listed(12)))
        self.expect(0, disk.delete(two, kind=CDP))

    def test_a_tool_that_went_back_is_not_told_as_no_change(self):
        disk = self.opened()
        first = disk.snapshot()
        self.put(disk, 5 * MIB, 1)
        second = disk.snapshot()
        disk.close()
        lab.run('hvrs-vhd', 'snapshot', 'apply', self.path('rsvd.vhds'),
                str(first))
        lab.run('chown', '-R', 'hvrs:hvrs', self.path(''))
        disk = self.opened()
        self.assertEqual((0, bytes(512)), disk.read_status(5 * MIB, 512))
        self.assertEqual(INCONSISTENT, disk.tracking()[0])
        third = disk.snapshot()
        self.expect(MISSING, disk.changes_page(third, second, 0, 1024)[0])

    def test_a_broken_map_stops_tracking_not_the_disk(self):
        disk = self.opened()
        first = disk.snapshot()
        disk.close()
        lab.put(self.path('rsvd.vhds.changes'), 0, bytes(131072))
        disk = self.opened()
        self.assertEqual(INCONSISTENT, disk.tracking()[0])
        self.put(disk, 0, 1)
        second = disk.snapshot()
        self.put(disk, MIB, 1)
        third = disk.snapshot()
        self.expect(MISSING, disk.changes_page(second, first, 0, 1024)[0])
        self.assertEqual([(MIB, 65536)], self.told(disk, third, second))


class Power(Tracked):
    """The file system loses what was not synced."""

    @classmethod
    def setUpClass(cls):
        cls.loop = lab.LoopDisk('xfs')
        cls.addClassCleanup(cls.loop.remove)
        cls.shares = {'vm': (cls.loop.share, [
            'vfs objects = hvrs', 'hvrs:shared disks = yes',
            # So that bits are not stable by way of the data.
            'smb3 share cap:CONTINUOUS AVAILABILITY = no'])}
        super().setUpClass()

    def test_what_was_written_is_told_after_a_power_failure(self):
        disk = self.opened()
        first = disk.snapshot()
        wrote = [8 * MIB, 70 * MIB, 71 * MIB]
        for offset in wrote:
            self.put(disk, offset, 1)
        # The writes are stable, the bits need not be.
        self.good(disk.scsi([0x35]))
        self.loop.fail()
        self.server.kill()
        self.loop.mount_again()
        self.server.start()
        self.tree = self.connect()
        disk = self.opened()
        for offset in wrote:
            self.assertEqual((0, lab.pattern(512, 1)),
                             disk.read_status(offset, 512))
        second = disk.snapshot()
        told = self.told(disk, second, first)
        for offset in wrote:
            self.assertTrue(covers(told, offset, 512), told)
        # Armed groups of 64 MiB, not the disk.
        self.assertEqual([(0, 128 * MIB)], told)
        third = disk.snapshot()
        self.assertEqual([], self.told(disk, third, second))


class Backup(Tracked):
    """As a backup product does it; what it makes is compared whole."""

    def copy(self, ident, ranges, out):
        source = self.at(NAME, ident)
        with open(out, 'r+b' if os.path.exists(out) else 'w+b') as file:
            file.truncate(self.size)
            for offset, length in ranges:
                while length > 0:
                    step = min(length, MIB)
                    status, data = source.read_status(offset, step)
                    self.expect(0, status)
                    file.seek(offset)
                    file.write(data)
                    offset, length = offset + step, length - step
        source.close()

    def scribble(self, disks, rng, count, wrote):
        for i in range(count):
            length = rng.choice((512, 4096, 65536, 300 * 512))
            offset = rng.randrange((self.size - length) // 512) * 512
            self.put(disks[i % len(disks)], offset, rng.randrange(1 << 30),
                     length)
            wrote.append((offset, length))

    def compare(self, ident, out):
        whole = self.path('whole.img')
        self.copy(ident, [(0, self.size)], whole)
        lab.run('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'raw', whole,
                out)
        os.remove(whole)

    def trees(self):
        self.disks = [self.opened(), self.opened(self.connect())]
        return self.disks

    def round(self, crash=None):
        rng, out = random.Random(7), self.path('backup.img')
        disks = self.trees()
        self.scribble(disks, rng, 60, [])
        first = disks[0].snapshot()
        self.copy(first, [(0, self.size)], out)
        wrote = []
        for i in range(3):
            self.scribble(disks, rng, 12, wrote)
            if crash is not None:
                disks = crash(disks)
            self.scribble(disks, rng, 12, wrote)
            second = disks[1].snapshot()
            told = self.told(disks[0], second, first)
            for offset, length in wrote:
                self.assertTrue(covers(told, offset, length))
            self.copy(second, told, out)
            self.compare(second, out)
            self.expect(0, disks[0].delete(first, persist=1))
            first, wrote = second, []
            yield told

    def test_changed_ranges_only(self):
        for told in self.round():
            self.assertLess(sum(n for _, n in told), self.size // 10)

    def test_all_of_smbd_killed_between_the_writes(self):
        def crash(disks):
            self.server.kill()
            self.server.start()
            self.tree = self.connect()
            return self.trees()
        for told in self.round(crash):
            # The kernel went on: nothing more than what was written.
            self.assertLess(sum(n for _, n in told), self.size // 10)


class BackupKilled(Backup):
    """With smbd ended at each step of what a backup asks for, in turn."""
    test_changed_ranges_only = None
    test_all_of_smbd_killed_between_the_writes = None

    STEPS = ('switch-made', 'switch-marked', 'switch-added', 'delete-noted',
             'delete-removed', 'delete-tidied', 'merge-noted', 'merge-begun',
             'merge-built', 'merge-renamed', 'merge-told', 'merge-tidied')

    def trees(self):
        self.disks = [self.opened(self.connect()),
                      self.opened(self.connect())]
        return self.disks

    def gone(self, step, what):
        """Whether the process of the first client ended there; until it did
        or there was nothing to do."""
        self.server.die_at(step)
        try:
            what(self.disks[0])
            if step.startswith('merge'):
                self.disks[0].meta(rsvd.OPTIMIZE, bytes(4))
        except (OSError, struct.error, smb2.StatusError):
            pass
        self.assertTrue(self.server.has_died(step), step)
        if self.STEPS.index(step) % 2:
            self.server.kill()
            self.server.start()
        self.tree = self.connect()
        return self.trees()

    def test_at_each_step(self):
        rng, out = random.Random(9), self.path('backup.img')
        disks = self.trees()
        self.scribble(disks, rng, 30, [])
        first = disks[0].snapshot()
        self.copy(first, [(0, self.size)], out)
        wrote = []
        for step in self.STEPS:
            self.scribble(disks, rng, 6, wrote)
            second = uuid.uuid4()
            if step.startswith('switch'):
                disks = self.gone(step, lambda d: d.snapshot(ident=second))
                self.scribble(disks, rng, 6, [] if second in
                              disks[1].snapshots() else wrote)
            if second not in disks[1].snapshots():
                disks[1].snapshot(ident=second)
            told = self.told(disks[1], second, first)
            for offset, length in wrote:
                self.assertTrue(covers(told, offset, length), step)
            self.copy(second, told, out)
            self.compare(second, out)
            wrote = []
            if step.startswith('switch'):
                # What came after the snapshot that was cut off.
                wrote = self.after(disks[1], second)
            else:
                disks = self.gone(step, lambda d: d.delete(first, persist=1))
            if disks[1].query(5, VM, first)[1] == 0:
                self.assertIn(disks[1].delete(first, persist=1), (
                    0, 0xC0000225))
            first = second

    def after(self, disk, ident):
        """Ranges that differ from a snapshot, by their bytes."""
        old, found = self.at(NAME, ident), []
        for at in range(0, self.size, MIB):
            new = disk.read_status(at, MIB)[1]
            was = old.read_status(at, MIB)[1]
            found += [(at + i, 4096) for i in range(0, MIB, 4096)
                      if new[i:i + 4096] != was[i:i + 4096]]
        old.close()
        return found


class Killed(Tracked):

    def test_killed_after_every_stage_of_a_snapshot(self):
        """Whatever the set says then, the next answer is whole."""
        rng, wrote = random.Random(3), []
        disk = self.opened()
        limit = disk.snapshot()
        for last in range(1, 6):
            ident, transaction = uuid.uuid4(), uuid.uuid4()
            for stage in range(1, last + 1):
                self.expect(0, disk.meta(rsvd.SNAPSHOT, rsvd.snapshot_data(
                    ident, (stage,), int(stage == 1)), transaction))
            self.server.kill()
            self.server.start()
            self.tree = self.connect()
            disk = self.opened()
            self.assertEqual(last >= 3, ident in disk.snapshots())
            offset = rng.randrange(self.size // MIB) * MIB
            self.put(disk, offset, last)
            wrote.append(offset)
            if last < 3:
                # The same again, over the mark that may have been left.
                self.assertEqual(ident, disk.snapshot(ident=ident))
            else:
                ident = disk.snapshot()
            told = self.told(disk, ident, limit)
            self.assertEqual(sorted(set(wrote)), sorted(
                o for a, n in told for o in range(a, a + n, MIB)), told)

    def test_killed_at_any_time_of_starts_and_stops(self):
        disk = self.opened()
        limit = disk.snapshot()
        for i in range(6):
            if i % 2:
                disk.tunnel_send(rsvd.TRACKING_STOP)
            else:
                disk.tunnel_send(rsvd.TRACKING_START, bytes(56))
            time.sleep(0.003 * i)
            self.server.kill()
            self.server.start()
            self.tree = self.connect()
            disk = self.opened()
            self.put(disk, i * MIB, i)
        second = disk.snapshot()
        self.assertEqual([(i * MIB, 65536) for i in range(6)],
                         self.told(disk, second, limit))


class Model(Tracked):

    def test_random_operations_against_a_model(self):
        rng = random.Random(int(os.environ.get('HVRS_SEED', '11')))
        steps = int(os.environ.get('HVRS_TRACKING_STEPS', '160'))
        disks = [self.opened(), self.opened(self.connect())]
        # Snapshots in order; the writes of each interval, with those that
        # going back brings again.
        marks, wrote = [disks[0].snapshot()], [set()]
        live = set()
        for _ in range(steps):
            disk, what = rng.choice(disks), rng.random()
            if what < 0.8:
                region = rng.randrange(self.size // 65536)
                self.put(disk, region * 65536 + 512 * rng.randrange(128),
                         rng.randrange(1 << 30))
                live.add(region)
            elif what < 0.9:
                marks.append(disk.snapshot())
                wrote.append(live)
                live = set()
            elif what < 0.95:
                at = rng.randrange(len(marks))
                self.expect(0, disk.apply(marks[at]))
                live = live.union(*wrote[at + 1:])
            elif len(marks) > 2:
                at = rng.randrange(1, len(marks))
                self.expect(0, disk.delete(marks.pop(at)))
                gone = wrote.pop(at)
                if at < len(wrote):
                    wrote[at] |= gone
                else:
                    live |= gone
        marks.append(disks[0].snapshot())
        wrote.append(live)
        for _ in range(20):
            a, b = sorted(rng.sample(range(len(marks)), 2))
            true = set().union(*wrote[a + 1:b + 1])
            told = {r for o, n in self.told(disks[0], marks[b], marks[a])
                    for r in range(o // 65536, (o + n) // 65536)}
            self.assertEqual(true, told)


if __name__ == '__main__':
    unittest.main()
