"""Remote VSS when something dies, is full or is hostile: state as before or
after, timers that go on, nothing left behind; and the one point in time."""

import glob
import os
import random
import shutil
import struct
import subprocess
import threading
import time
import unittest
import uuid

import fsrvp
import lab
import smb2
import test_fsrvp
from fsrvp import OK, unc
from test_fsrvp import FsrvpCase, SETTINGS, snapshots


class CrashCase(FsrvpCase):
    shares = ('vm',)

    def workers(self):
        """The processes of remote VSS of this server: those that were
        started with its configuration."""
        found = []
        for path in glob.glob('/proc/[0-9]*/cmdline'):
            try:
                with open(path, 'rb') as text:
                    words = text.read().split(b'\0')
            except OSError:
                continue
            name = os.path.basename(words[0]).decode()
            if name in ('rpcd_fsrvp', 'samba-dcerpcd') and \
                    any(self.server.config.encode() in w for w in words):
                found.append(int(path.split('/')[2]))
        return found

    def kill_workers(self):
        pids = self.workers()
        self.assertTrue(pids)
        for pid in pids:
            lab.kill(pid)
        self.client.close()

    def again(self):
        """A new client after the death of the worker."""
        for _ in range(40):
            try:
                self.client = self.new_client()
                self.client.version()
                return
            except (smb2.StatusError, fsrvp.Disconnected, ConnectionError,
                    AssertionError):
                time.sleep(0.25)
        self.fail('remote VSS does not come back')


class Death(CrashCase):
    def kill_all(self):
        """smbd and all of its helpers."""
        for pid in self.workers():
            lab.kill(pid)
        self.server.kill()
        self.client.close()
        self.server.start()

    def test_workers_killed_after_every_step(self):
        self.after_every_step(self.kill_workers)

    def test_all_killed_after_every_step(self):
        self.after_every_step(self.kill_all)

    def after_every_step(self, kill):
        old = lab.pattern(100000, 1)
        self.put('vm', 'disk.vhdx', old)

        def dies():
            kill()
            self.again()

        self.expect(OK, self.client.set_context(test_fsrvp.AUTO_RECOVERY))
        dies()
        result, set_id = self.client.start()
        self.expect(OK, result)
        dies()
        result, copy = self.client.add(set_id, unc('vm'))
        self.expect(OK, result)
        dies()
        self.expect(OK, self.client.prepare(set_id))
        dies()
        self.expect(OK, self.client.commit(set_id))
        dies()
        self.put('vm', 'disk.vhdx', lab.pattern(100000, 2))
        self.expect(OK, self.client.expose(set_id))
        dies()
        result, found = self.client.mapping(copy, set_id, unc('vm'))
        self.expect(OK, result)
        tree = self.connect(found['exposed'])
        file = tree.create('disk.vhdx', access=smb2.READ_ONLY,
                           disposition=smb2.OPEN)
        self.assertEqual(old, file.read(0, len(old)))
        self.expect(OK, self.client.recovery_complete(set_id))
        dies()
        self.expect(fsrvp.BAD_STATE, self.client.abort(set_id))
        self.expect(OK, self.client.delete(set_id, copy, unc('vm')))
        dies()
        self.assert_nothing_left()

    def test_all_of_the_server_killed_with_an_exposed_snapshot(self):
        old = lab.pattern(50000, 1)
        self.put('vm', 'disk.vhdx', old)
        set_id, (copy,), (name,) = self.take('vm')
        self.kill_all()
        self.again()
        file = self.connect(name).create('disk.vhdx', access=smb2.READ_ONLY,
                                         disposition=smb2.OPEN)
        self.assertEqual(old, file.read(0, len(old)))
        self.expect(OK, self.client.recovery_complete(set_id))
        self.expect(OK, self.client.delete(set_id, copy, unc('vm')))
        self.assert_nothing_left()


class DeathInTheMiddle(CrashCase):
    """The provider is a script that takes its time."""

    script = '/usr/local/sbin/hvrs-test-snapshot'

    def setUp(self):
        with open(self.script, 'w') as out:
            out.write('''#!/bin/sh
case $1 in
check) echo store ;;
create)
	mkdir "$3" && touch "$3/half" || exit 1
	[ ! -e "$2/slow" ] || sleep 20
	cp -a "$2"/*.vhdx "$3" && rm "$3/half" ;;
seal) ;;
delete) rm -rf "$2" ;;
esac
''')
        os.chmod(self.script, 0o755)
        self.addCleanup(os.unlink, self.script)
        self.options = ['vfs objects = hvrs', 'hvrs:snapshot provider = '
                        'script', 'hvrs:snapshot script = ' + self.script]
        super().setUp()

    def test_script_takes_and_removes_snapshots(self):
        old = lab.pattern(50000, 1)
        self.put('vm', 'disk.vhdx', old)
        set_id, (copy,), (name,) = self.take('vm')
        file = self.connect(name).create('disk.vhdx', access=smb2.READ_ONLY,
                                         disposition=smb2.OPEN)
        self.assertEqual(old, file.read(0, len(old)))
        file.close()
        self.expect(OK, self.client.recovery_complete(set_id))
        self.expect(OK, self.client.delete(set_id, copy, unc('vm')))
        self.assert_nothing_left()

    def test_killed_while_the_snapshot_is_taken(self):
        self.put('vm', 'disk.vhdx', b'x')
        slow = self.directories['vm'] + '/slow'
        open(slow, 'w').close()
        set_id, _ = self.begin('vm')
        # The client's patience ends, the work goes on.
        self.expect(fsrvp.COMMIT_TIMEOUT, self.client.commit(set_id, 300))
        self.expect(fsrvp.BAD_STATE, self.client.prepare(set_id))
        self.expect(fsrvp.BAD_STATE, self.client.abort(set_id))
        self.assertEqual(1, len(snapshots(self.directories['vm'])))
        self.kill_workers()
        subprocess.run(['pkill', '-KILL', '-f', self.script])
        os.unlink(slow)
        self.again()
        self.assertEqual([], snapshots(self.directories['vm']))
        self.expect(OK, self.client.commit(set_id))
        (name,) = snapshots(self.directories['vm'])
        self.assertEqual(['disk.vhdx'], os.listdir(
            self.directories['vm'] + '/.snapshots/' + name))
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()

    def test_commit_again_waits_for_the_same_work(self):
        self.put('vm', 'disk.vhdx', b'x')
        slow = self.directories['vm'] + '/slow'
        open(slow, 'w').close()
        with open(self.script) as text:
            script = text.read().replace('sleep 20', 'sleep 2')
        with open(self.script, 'w') as out:
            out.write(script)
        set_id, _ = self.begin('vm')
        self.expect(fsrvp.COMMIT_TIMEOUT, self.client.commit(set_id, 200))
        # Other calls are answered meanwhile.
        self.assertEqual((1, 1, OK), self.client.version())
        self.expect(OK, self.client.commit(set_id))
        self.assertEqual(1, len(snapshots(self.directories['vm'])))
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()

    def test_a_script_that_fails(self):
        with open(self.script, 'a') as out:
            out.write('[ "$1" = create ] && exit 3\nexit 0\n')
        self.put('vm', 'disk.vhdx', b'x')
        set_id, _ = self.begin('vm')
        self.assertNotEqual(OK, self.client.commit(set_id))
        self.assertEqual([], snapshots(self.directories['vm']))
        # Added again: the client may try once more, or give up.
        self.expect(OK, self.client.prepare(set_id))
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()

    def test_a_script_that_others_may_change_is_not_run(self):
        os.chmod(self.script, 0o777)
        self.expect(fsrvp.NOT_SUPPORTED,
                    self.client.is_path_supported(unc('vm'))[0])


class Timers(CrashCase):
    settings = SETTINGS + ['hvrs:fsrvp legacy statuses = yes',
                           'fss:sequence timeout = 2']

    def test_they_run_out_while_nobody_lives(self):
        self.put('vm', 'disk.vhdx', b'x')
        set_id, _ = self.begin('vm')
        self.expect(OK, self.client.commit(set_id))
        self.assertEqual(1, len(snapshots(self.directories['vm'])))
        self.kill_workers()
        time.sleep(2.5)
        self.again()
        self.expect(fsrvp.INVALID_ARGUMENT, self.client.expose(set_id))
        self.assert_nothing_left()

    def test_they_run_out_with_the_worker_alive(self):
        self.put('vm', 'disk.vhdx', b'x')
        set_id, _ = self.begin('vm')
        self.expect(OK, self.client.commit(set_id))
        time.sleep(3)
        self.assert_nothing_left()


class PointInTime(FsrvpCase):
    """One writer stamps all files in turn, each stamp after the answer to
    the one before; a snapshot must hold a beginning of that."""

    files = 12

    def setUp(self):
        super().setUp()
        self.stop_writing = False

    def write(self, share, trees, done):
        handles = [trees[i % 2].create('f%02d.vhdx' % i)
                   for i in range(self.files)]
        stamp = 0
        while not self.stop_writing:
            handles[stamp % self.files].write(
                (stamp // self.files % 50) * 4096,
                struct.pack('<Q', stamp + 1) * 512)
            stamp += 1
            done[0] = stamp

    def check(self, share):
        trees = [self.connect(share), self.connect(share)]
        done = [0]
        writer = threading.Thread(target=self.write,
                                  args=(share, trees, done))
        writer.start()
        try:
            while done[0] < 3 * self.files:
                time.sleep(0.01)
            for _ in range(6):
                before = done[0]
                set_id, _ = self.begin(share)
                self.expect(OK, self.client.commit(set_id))
                after = done[0]
                self.judge(share, before, after)
                self.expect(OK, self.client.abort(set_id))
                time.sleep(random.random() / 10)
        finally:
            self.stop_writing = True
            writer.join()
        self.assert_nothing_left()

    def judge(self, share, before, after):
        (name,) = snapshots(self.directories[share])
        stamps = []
        for i in range(self.files):
            path = '%s/.snapshots/%s/f%02d.vhdx' % (
                self.directories[share], name, i)
            with open(path, 'rb') as file:
                data = file.read()
            values = set(struct.unpack('<%dQ' % (len(data) // 8), data))
            stamps.append(max(values))
            # No write is there in part.
            for at in range(0, len(data), 4096):
                self.assertEqual(1, len(set(struct.unpack(
                    '<512Q', data[at:at + 4096]))))
        last = max(stamps)
        self.assertGreaterEqual(last, before)
        self.assertLessEqual(last, after + 1)
        for i, stamp in enumerate(stamps):
            wanted = (last - 1 - i) // self.files * self.files + i + 1
            self.assertEqual(wanted, stamp, stamps)

    def test_clones_are_one_point_in_time(self):
        self.check('vm')

    def test_btrfs_is_one_point_in_time(self):
        self.check('vmbtrfs')


class Many(FsrvpCase):
    shares = tuple('s%02d' % i for i in range(64))
    base = dict.fromkeys(shares, '/srv/xfs/')

    def test_64_shares_in_one_set(self):
        for share in self.shares:
            with open(self.directories[share] + '/disk.vhdx', 'w') as out:
                out.write(share)
        set_id, copies = self.begin(*self.shares)
        self.expect(OK, self.client.commit(set_id))
        self.expect(OK, self.client.expose(set_id))
        self.assertEqual(64, len(self.exposed_shares()) - len(self.before))
        for share, copy in zip(self.shares, copies):
            result, found = self.client.mapping(copy, set_id, unc(share))
            self.expect(OK, result)
        file = self.connect(found['exposed']).create(
            'disk.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
        self.assertEqual(b's63', file.read(0, 3))
        self.expect(OK, self.client.recovery_complete(set_id))
        for share, copy in zip(self.shares, copies):
            self.expect(OK, self.client.delete(set_id, copy, unc(share)))
        self.assert_nothing_left()


class TwoInOne(FsrvpCase):
    """Two shares of one subvolume: one snapshot, two exposed shares."""

    shares = ('vmbtrfs',)

    def test_two_shares_of_one_store(self):
        top = self.directories['vmbtrfs']
        os.mkdir(top + '/below')
        with open(top + '/below/disk.vhdx', 'w') as out:
            out.write('below')
        self.server.shares['below'] = (top + '/below',
                                       ['vfs objects = hvrs'])
        self.server.reload()
        self.client.close()
        time.sleep(0.5)
        subprocess.run(['pkill', '-f', 'rpcd_fsrvp.*' + self.server.config])
        time.sleep(0.5)
        self.client = self.new_client()
        set_id, copies = self.begin('vmbtrfs', 'below')
        self.assertEqual(copies[0], copies[1])
        self.expect(OK, self.client.commit(set_id))
        self.expect(OK, self.client.expose(set_id))
        self.assertEqual(1, len(snapshots(top)))
        result, found = self.client.mapping(copies[1], set_id, unc('below'))
        self.expect(OK, result)
        file = self.connect(found['exposed']).create(
            'disk.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
        self.assertEqual(b'below', file.read(0, 5))
        file.close()
        self.expect(OK, self.client.recovery_complete(set_id))
        self.expect(OK, self.client.delete(set_id, copies[0],
                                           unc('vmbtrfs')))
        self.assertEqual(1, len(snapshots(top)))
        self.expect(OK, self.client.delete(set_id, copies[1], unc('below')))
        self.assert_nothing_left()


class Hostile(FsrvpCase):
    shares = ('vm',)

    def test_stubs_cut_off_and_oversized(self):
        """A fault or an error, and the server lives."""
        whole = uuid.uuid4().bytes_le + uuid.uuid4().bytes_le + \
            fsrvp.string(unc('vm')) + bytes(4)
        for opnum in range(14):
            for stub in [whole[:n] for n in range(0, len(whole), 5)] + [
                    bytes(4000), b'\xff' * 200,
                    struct.pack('<III', 0xFFFFFFFF, 0, 0xFFFFFFFF),
                    struct.pack('<III', 5, 3, 5) + b'\xff' * 10]:
                try:
                    self.client.call(opnum, stub)
                except fsrvp.Fault:
                    pass
                except fsrvp.Disconnected:
                    self.client.close()
                    self.client = self.new_client()
        self.assertEqual((1, 1, OK), self.client.version())
        for log in glob.glob(self.server.directory + '/*'):
            if os.path.isfile(log):
                with open(log, errors='replace') as text:
                    self.assertNotIn('INTERNAL ERROR', text.read(), log)

    def test_a_damaged_state_is_left_alone(self):
        self.begin('vm')
        self.client.close()
        subprocess.run(['pkill', '-f', 'rpcd_fsrvp.*' + self.server.config])
        time.sleep(0.5)
        path = self.server.directory + '/state/hvrs_fsrvp.tdb'
        lab.run('python3', '-c', 'import sys, samba\nimport tdb\n'
                't = tdb.Tdb(sys.argv[1], 0, 0, 2)\n'
                'k = b"snapsets\\0"\nv = bytearray(t.get(k))\n'
                'v[20] ^= 1\nt.store(k, bytes(v))', path)
        client = self.new_client()
        self.assertNotEqual(OK, client.set_context(0))
        self.assertEqual(1, subprocess.run(
            ['env', 'SMB_CONF_PATH=' + self.server.config, 'hvrsctl',
             'snapshots'], stderr=subprocess.PIPE).returncode)


class FullDisk(unittest.TestCase):
    def test_no_room_for_a_snapshot(self):
        disk = lab.LoopDisk(size=400 * lab.MIB)
        self.addCleanup(disk.remove)
        path = disk.share
        for i in range(2000):
            with open('%s/f%d' % (path, i), 'wb') as out:
                out.write(b'x' * 100)
        server = lab.Server({'full': (path, ['vfs objects = hvrs'])},
                            SETTINGS)
        self.addCleanup(server.stop)
        with open(disk.mount + '/fill', 'wb') as out:
            try:
                while True:
                    out.write(bytes(1 << 20))
            except OSError:
                pass
        client = fsrvp.PipeClient(server)
        self.addCleanup(client.close)
        self.assertEqual(OK, client.set_context(0))
        result, set_id = client.start()
        result, _ = client.add(set_id, unc('full'))
        self.assertEqual(OK, result)
        self.assertEqual(fsrvp.NO_SPACE, client.commit(set_id))
        self.assertEqual([], snapshots(path))
        os.unlink(disk.mount + '/fill')
        self.assertEqual(OK, client.commit(set_id))
        self.assertEqual(1, len(snapshots(path)))
        self.assertEqual(OK, client.abort(set_id))
        self.assertEqual([], snapshots(path))


if __name__ == '__main__':
    unittest.main()
