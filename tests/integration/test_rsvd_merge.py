"""Files of deleted snapshots become one with their child, OPTIMIZE waits for
that, EXTRACT makes a disk of a snapshot; what is read stays what it was, also
where smbd ends at any step of it."""

import os
import random
import struct
import subprocess
import time
import unittest
import uuid

import lab
import rsvd
import smb2
from rsvd import VM

KIB, MIB = 1024, lab.MIB
SIZE = 64 * MIB
NAME = 't/rsvd.vhds'
UNIT = 4096
INVALID_PARAMETER, NAME_COLLISION = 0xC000000D, 0xC0000035
STEPS = ('merge-noted', 'merge-begun', 'merge-built', 'merge-renamed',
         'merge-told', 'merge-tidied')


class Content:
    """What a disk must hold."""

    def __init__(self, size=SIZE, units=None):
        self.size, self.units = size, dict(units or {})

    def copy(self):
        return Content(self.size, self.units)

    def put(self, offset, data):
        at = offset
        while at < offset + len(data):
            unit, within = divmod(at, UNIT)
            n = min(UNIT - within, offset + len(data) - at)
            old = self.units.get(unit, bytes(UNIT))
            part = data[at - offset:at - offset + n]
            self.units[unit] = old[:within] + part + old[within + n:]
            at += n

    def zero(self, offset, length):
        for unit in range(offset // UNIT, (offset + length) // UNIT):
            self.units.pop(unit, None)

    def resize(self, size):
        for unit in [u for u in self.units if u >= size // UNIT]:
            del self.units[unit]
        self.size = size

    def get(self, offset, length):
        return b''.join(self.units.get(u, bytes(UNIT)) for u in range(
            offset // UNIT, (offset + length) // UNIT))


class Merging(rsvd.Case):
    """A set, its client, and what it and its snapshots must hold."""
    kept_blocks = None

    def setUp(self):
        super().setUp()
        rsvd.make_set(self.path('rsvd.vhds'), SIZE)
        self.rng = random.Random(5)
        self.now, self.then = Content(), {}
        self.main = self.opened()

    def opened(self, tree=None):
        return self.disk(NAME, tree=tree, version=2)

    def put(self, offset=None, length=None, disk=None):
        length = length or self.rng.choice((512, 4096, 65536, 3 * MIB // 2))
        if offset is None:
            offset = self.rng.randrange((self.now.size - length) // 512) * 512
        data = lab.pattern(length, self.rng.randrange(1 << 30))
        for at in range(0, length, MIB):
            self.expect(0, (disk or self.main).write_status(
                offset + at, data[at:at + MIB]))
        self.now.put(offset, data)

    def unmap(self, offset, length):
        self.good(self.main.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24], struct.pack(
            '>HHIQII', 22, 16, 0, offset // 512, length // 512, 0)))
        self.now.zero(offset, length)

    def snapshot(self, writes=6):
        ident = self.main.snapshot(0)
        self.then[ident] = self.now.copy()
        for _ in range(writes):
            self.put()
        return ident

    def delete(self, ident):
        self.expect(0, self.main.delete(ident))
        del self.then[ident]

    def whole(self, disk, content, what):
        at = 0
        while at < content.size:
            length = min(MIB, content.size - at)
            status, data = disk.read_status(at, length)
            self.expect(0, status)
            self.assert_bytes(content.get(at, length), data,
                              '%s at %d' % (what, at))
            at += length

    def check(self, disk=None):
        """Everything, byte by byte."""
        self.whole(disk or self.main, self.now, 'the disk')
        for ident, content in self.then.items():
            old = self.at(NAME, ident)
            self.whole(old, content, 'a snapshot')
            old.close()

    def parts(self):
        return sorted(n for n in os.listdir(self.path(''))
                      if n.startswith('rsvd_'))

    def until(self, count):
        """Waits for what goes on in the background."""
        end = time.time() + 20
        while len(self.parts()) != count:
            if time.time() > end:
                self.fail('%s, not %d' % (self.parts(), count))
            time.sleep(0.02)

    def needed(self):
        smb, status, body = self.main.query(8)
        self.assertEqual((0, 0, 12), (smb, status, len(body)))
        return struct.unpack_from('<I', body, 8)[0]

    def optimize(self):
        self.expect(0, self.main.meta(rsvd.OPTIMIZE, bytes(4)))

    def revive(self):
        self.server.kill()
        self.server.start()
        self.tree = self.connect()
        self.main = self.opened()


@lab.on_shares('vm', 'vmext4', 'vmbtrfs')
class Merge(Merging):
    shares = {name: ['vfs objects = hvrs', 'hvrs:shared disks = yes']
              for name in ('vm', 'vmext4', 'vmbtrfs')}

    def test_a_file_inside_the_chain_goes(self):
        for _ in range(4):
            self.put()
        first, second, third = (self.snapshot() for _ in range(3))
        self.assertEqual(4, len(self.parts()))
        before = set(self.parts())
        self.delete(second)
        self.optimize()
        self.assertEqual(3, len(self.parts()))
        # Nothing has another name than it had.
        self.assertLess(set(self.parts()), before)
        self.assertEqual(0, self.needed())
        self.check()
        self.main.close()
        self.main = self.opened()
        self.check()
        # The base, whose child is the only one that has data then.
        self.delete(first)
        self.optimize()
        self.assertEqual(2, len(self.parts()))
        self.check()
        self.assertFalse(os.path.exists(self.path('rsvd.vhds.unfinished')))
        for name in self.parts():
            lab.run('hvrs-vhd', 'check', self.path(name))

    def test_a_run_of_files_goes_at_once(self):
        idents = [self.snapshot(3) for _ in range(8)]
        for ident in idents[1:7]:
            self.delete(ident)
        self.optimize()
        self.assertEqual(3, len(self.parts()))
        self.check()

    def test_what_is_below_the_leaf_waits_for_a_snapshot(self):
        first = self.snapshot()
        self.delete(first)
        self.optimize()
        self.assertEqual((2, 0), (len(self.parts()), self.needed()))
        self.snapshot()
        self.optimize()
        self.assertEqual((2, 0), (len(self.parts()), self.needed()))
        self.check()

    def test_a_branch_keeps_what_both_of_it_need(self):
        first = self.snapshot()
        second = self.snapshot()
        self.expect(0, self.main.apply(first))
        self.now = self.then[first].copy()
        self.put()
        third = self.snapshot()
        self.delete(first)
        self.optimize()
        # Base, second, third, leaf: the base has two children.
        self.assertEqual((4, 0), (len(self.parts()), self.needed()))
        self.check()
        self.delete(second)
        self.optimize()
        self.assertEqual((2, 0), (len(self.parts()), self.needed()))
        self.check()
        self.assertEqual([third], self.main.snapshots())

    def test_inside_a_branch_that_is_given_up_nothing_stays(self):
        first = self.snapshot()
        second = self.snapshot()
        third = self.snapshot()
        self.expect(0, self.main.apply(first))
        self.now = self.then[first].copy()
        self.delete(second)
        self.delete(third)
        self.optimize()
        self.assertEqual(2, len(self.parts()))
        self.check()

    def test_sizes_and_holes_of_every_file_count(self):
        self.put(60 * MIB, 3 * MIB)
        self.put(40 * MIB, 3 * MIB)
        idents = []
        for size in (48, 96, 80, 128):
            self.expect(0, self.main.resize(size * MIB, unsafe=1))
            self.now.resize(size * MIB)
            self.expect(rsvd.CAPACITY, self.main.read_status(0, 512)[0])
            self.unmap(4 * MIB, 8 * MIB)
            idents.append(self.snapshot())
            self.unmap(41 * MIB, MIB)
        for ident in idents[::2] + idents[1::2]:
            self.delete(ident)
            self.optimize()
            self.check()

    def test_a_client_that_writes_all_the_time_sees_nothing_of_it(self):
        other = self.opened(self.connect())
        for _ in range(12):
            ident = self.snapshot(2)
            self.put(disk=other)
            self.snapshot(2)
            self.delete(ident)
            for _ in range(5):
                self.put(disk=other)
        self.optimize()
        self.check()
        self.check(other)


class Background(Merging):

    def test_without_being_asked(self):
        idents = [self.snapshot() for _ in range(3)]
        self.delete(idents[1])
        self.until(3)
        self.check()

    def test_a_chain_does_not_grow_with_what_is_deleted(self):
        for _ in range(150):
            self.delete(self.snapshot(1))
        self.snapshot(1)
        self.until(2)
        self.check()

    def test_another_takes_up_what_a_killed_process_left(self):
        for step in STEPS:
            first = self.snapshot()
            self.snapshot()
            self.server.die_at(step)
            self.delete(first)
            for _ in range(1000):
                if self.server.has_died(step):
                    break
                time.sleep(0.01)
            else:
                self.fail('nobody came by ' + step)
            self.tree = self.connect()
            self.main = self.opened()
            self.check()
            # A second after the open it looks what there is to do.
            self.until(len(self.then) + 1)
            self.check()
            self.assertFalse([n for n in self.parts()
                              if n.endswith('.part')], step)

    def test_a_client_that_goes_leaves_it_to_the_next(self):
        for _ in range(4):
            self.put(length=8 * MIB)
        first, _ = self.snapshot(), self.snapshot()
        self.delete(first)
        self.main.tree.connection.close()
        self.tree = self.connect()
        self.main = self.opened()
        self.until(2)
        self.check()

    def test_a_tool_checks_the_chain_and_every_snapshot(self):
        first, second = self.snapshot(), self.snapshot()
        self.expect(0, self.main.apply(first))
        self.main.close()

        def told():
            done = subprocess.run(
                ['hvrs-vhd', 'check', self.path('rsvd.vhds')], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            return done.returncode, done.stdout
        status, text = told()
        self.assertEqual(0, status, text)
        # The base, the second snapshot's of a branch of its own, the leaf.
        self.assertIn('2 snapshots, 3 files in all', text)
        parts = {name: lab.content(self.path(name)) for name in self.parts()}
        for name in parts:
            # A block table that points where it must not.
            lab.put(self.path(name), 3 * MIB, b'\xf6' + b'\xff' * 7)
            status, text = told()
            self.assertEqual(3, status, (name, text))
            with open(self.path(name), 'r+b') as file:
                file.write(parts[name])
        self.assertEqual(0, told()[0])
        os.rename(self.path(self.parts()[0]), self.path('away'))
        self.assertIn(told()[0], (1, 3))

    def test_what_a_tool_has_deleted(self):
        first, second = self.snapshot(), self.snapshot()
        self.main.close()
        lab.run('hvrs-vhd', 'snapshot', 'delete', self.path('rsvd.vhds'),
                str(first))
        del self.then[first]
        self.main = self.opened()
        self.assertEqual([second], self.main.snapshots())
        self.until(2)
        self.check()
        self.assertFalse(os.path.exists(self.path('rsvd.vhds.unfinished')))

    def test_rights_and_owner_are_those_of_the_old_file(self):
        first, second = self.snapshot(), self.snapshot()
        # Somebody else's, whom the user may write to.
        for name in self.parts():
            os.chown(self.path(name), 0, 0)
            os.chmod(self.path(name), 0o600)
            lab.run('setfacl', '-m', 'u:hvrs:rw', self.path(name))
        self.delete(first)
        self.optimize()
        self.assertEqual(2, len(self.parts()))
        for name in self.parts():
            owner, rights = self.rights(name)
            self.assertEqual((0, 0), owner)
            # As Windows' rights say it; the words may differ.
            for line in ('user::rw-', 'user:hvrs:rw-', 'group::---',
                         'other::---'):
                self.assertIn(line, rights)
        self.assertEqual([second], self.main.snapshots())
        self.check()

    def rights(self, name):
        st = os.stat(self.path(name))
        return (st.st_uid, st.st_gid), lab.run(
            'getfacl', '-cp', self.path(name)).split('\n')


class Notes(Merging):
    """The file of names is whatever somebody made of it."""

    def test_hostile_notes_cost_no_file(self):
        first, second = self.snapshot(), self.snapshot()
        self.main.close()
        above = os.path.dirname(self.path('')[:-1]) + '/above.bin'
        with open(above, 'wb') as file:
            file.write(b'what must stay')
        self.addCleanup(os.remove, above)
        # Of others, in the same folder.
        others = ['other.vhdx', 'rsvd.avhdx', 'other_%s.avhdx' % second,
                  'rsvd_.avhdx', 'rsvd_%s.vhdx' % second, 'plain.part']
        for name in others:
            with open(self.path(name), 'wb') as file:
                file.write(name.encode())
        os.mkdir(self.path('folder'))
        os.symlink(above, self.path('link'))
        before = self.parts()
        names = [n.encode() for n in before] + [
            b'../above.bin', b'..\\above.bin', above.encode(), b'folder',
            b'.', b'..', b'', b'\xff\xfe\x00', b'a' * 5000, b'rsvd.vhds:x',
            b'link'] + [n.encode() for n in others]
        for text in (b'\n'.join(names), b'\n'.join(names) * 2000,
                     os.urandom(70000), b'\n' * 70000, bytes(4096)):
            with open(self.path('rsvd.vhds.unfinished'), 'wb') as file:
                file.write(text)
            os.chown(self.path('rsvd.vhds.unfinished'),
                     os.stat(self.path('')).st_uid, -1)
            self.main = self.opened()
            self.optimize()
            self.assertEqual(before, self.parts())
            self.assertTrue(os.path.isdir(self.path('folder')))
            for name in others:
                with open(self.path(name), 'rb') as file:
                    self.assertEqual(name.encode(), file.read())
            with open(above, 'rb') as file:
                self.assertEqual(b'what must stay', file.read())
            self.check()
            self.main.close()
        self.main = self.opened()
        self.delete(first)
        self.optimize()
        self.check()
        self.assertEqual([second], self.main.snapshots())


class Golden(Merging):
    """A parent that the set did not make may be others' as well."""

    def test_it_is_neither_merged_nor_removed(self):
        rsvd.make_disk(self.path('golden.vhdx'), SIZE)
        lab.run('hvrs-vhd', 'create', '--parent', self.path('golden.vhdx'),
                self.path('mine.vhdx'))
        lab.run('chown', 'hvrs:hvrs', self.path('mine.vhdx'))
        before = lab.content(self.path('golden.vhdx'))
        disk = self.disk('t/mine.vhdx', version=2)
        self.expect(0, disk.meta(rsvd.CONVERT, rsvd.name_data('new.vhds')))
        disk.close()
        self.main = self.disk('t/new.vhds', version=2)
        idents = []
        for i in range(3):
            idents.append(self.main.snapshot(0))
            self.expect(0, self.main.write_status(i * MIB,
                                                  lab.pattern(4096, i)))
        for ident in idents:
            self.expect(0, self.main.delete(ident))
        self.optimize()
        self.assertEqual(before, lab.content(self.path('golden.vhdx')))
        for i in range(3):
            self.assertEqual((0, lab.pattern(4096, i)),
                             self.main.read_status(i * MIB, 4096))


@lab.on_shares('vm', 'vmext4')
class Extract(Merging):
    shares = {name: ['vfs objects = hvrs', 'hvrs:shared disks = yes']
              for name in ('vm', 'vmext4')}

    def compare(self, name, content):
        """By QEMU, which knows nothing of us; else by hvrs-vhd."""
        raw = self.path(name + '.raw')
        lab.run('hvrs-vhd', 'convert', '--format', 'raw', self.path(name),
                raw)
        with open(raw, 'rb') as file:
            at = 0
            while at < content.size:
                self.assert_bytes(content.get(at, MIB), file.read(MIB),
                                  '%s at %d' % (name, at))
                at += MIB
        self.assertEqual(content.size, os.path.getsize(raw))
        return raw

    def test_a_disk_of_each_snapshot(self):
        for _ in range(4):
            self.put()
        idents = [self.snapshot() for _ in range(3)]
        for i, ident in enumerate(idents):
            name = str(uuid.uuid4())
            self.expect(0, self.main.extract(name, ident))
            raw = self.compare(name, self.then[ident])
            lab.run('qemu-img', 'compare', '-q', '-f', 'vhdx', '-F', 'raw',
                    self.path(name), raw)
            lab.run('hvrs-vhd', 'check', self.path(name))
        self.check()
        self.assertFalse([n for n in os.listdir(self.path(''))
                          if n.endswith('.part')])

    def test_only_what_came_after_the_limit(self):
        for _ in range(4):
            self.put(length=3 * MIB // 2)
        idents = [self.snapshot(2) for _ in range(4)]
        self.expect(0, self.main.extract('diff.vhdx', idents[3], idents[1]))
        self.compare('diff.vhdx', self.then[idents[3]])
        self.expect(0, self.main.extract('all.vhdx', idents[3]))
        self.assertIn('differencing', lab.run(
            'hvrs-vhd', 'info', self.path('diff.vhdx')).lower())
        self.assertLess(os.stat(self.path('diff.vhdx')).st_blocks,
                        os.stat(self.path('all.vhdx')).st_blocks)

    def test_it_is_a_disk_by_itself(self):
        self.put()
        ident = self.snapshot()
        self.expect(0, self.main.extract('own.vhdx', ident))
        other = self.disk('t/own.vhdx', version=2)
        self.whole(other, self.then[ident], 'what was extracted')
        self.expect(0, other.write_status(0, lab.pattern(4096, 1)))
        other.close()
        self.check()

    def test_what_is_refused(self):
        first, second = self.snapshot(), self.snapshot()
        self.expect(0, self.main.apply(first))
        self.now = self.then[first].copy()
        branch = self.snapshot()
        self.optimize()
        before = sorted(os.listdir(self.path('')))
        for status, name, source, limit, how in (
                (INVALID_PARAMETER, 'a.vhdx', uuid.uuid4(), None, {}),
                (INVALID_PARAMETER, 'a.vhdx', second, uuid.uuid4(), {}),
                (INVALID_PARAMETER, 'a.vhdx', first, second, {}),
                (INVALID_PARAMETER, 'a.vhdx', first, first, {}),
                (INVALID_PARAMETER, 'a.vhdx', branch, second, {}),
                (INVALID_PARAMETER, 'a.vhdx', first, None, {'kind': 3}),
                (INVALID_PARAMETER, 'a\\b.vhdx', first, None, {}),
                (NAME_COLLISION, 'rsvd.vhds', first, None, {}),
                (NAME_COLLISION, self.parts()[0], first, None, {})):
            self.expect(status, self.main.extract(name, source, limit, **how))
        self.assertEqual(before, sorted(os.listdir(self.path(''))))
        self.check()

    def test_others_go_on_meanwhile(self):
        for _ in range(8):
            self.put(length=3 * MIB)
        ident = self.snapshot()
        sent = self.main.meta_send(rsvd.EXTRACT, struct.pack(
            '<III', VM, 0, 0) + ident.bytes_le + bytes(16) +
            rsvd.name_data('long.vhdx'))
        other = self.opened(self.connect())
        for _ in range(10):
            self.put(disk=other, length=4096)
        later = other.snapshot(0)
        self.then[later] = self.now.copy()
        self.expect(0, other.delete(ident))
        wanted = self.then.pop(ident)
        smb, status, _ = self.main.tunnel_end(sent)
        self.assertEqual((0, 0), (smb, status))
        self.compare('long.vhdx', wanted)
        self.check()


class ExtractKilled(Extract_vm):	# noqa: F821
    """The end of smbd at each step of EXTRACT."""
    test_a_disk_of_each_snapshot = test_only_what_came_after_the_limit = None
    test_it_is_a_disk_by_itself = test_what_is_refused = None
    test_others_go_on_meanwhile = None

    def test_at_each_step(self):
        self.put()
        ident = self.snapshot()
        for step in ('extract-noted', 'extract-built', 'extract-renamed'):
            name = step + '.vhdx'
            self.server.die_at(step)
            with self.assertRaises((OSError, struct.error,
                                    smb2.StatusError)):
                self.main.extract(name, ident)
            self.assertTrue(self.server.has_died(step))
            self.tree = self.connect()
            self.main = self.opened()
            self.assertEqual(step == 'extract-renamed',
                             os.path.exists(self.path(name)))
            if step != 'extract-renamed':
                self.expect(0, self.main.extract(name, ident))
            self.compare(name, self.then[ident])
            self.check()
        self.delete(ident)
        self.optimize()
        self.assertFalse([n for n in os.listdir(self.path(''))
                          if n.endswith('.part')])


class Progress(Merging):

    def test_of_an_operation_that_is_over(self):
        transaction = uuid.uuid4()
        self.expect(0, self.main.meta(rsvd.OPTIMIZE, bytes(4), transaction))
        smb, status, body = self.main.tunnel(rsvd.PROGRESS,
                                             transaction.bytes_le)
        done, all_of = struct.unpack('<QQ', body)
        self.assertEqual((0, 0, True), (smb, status, done == all_of > 0))


if __name__ == '__main__':
    unittest.main()
