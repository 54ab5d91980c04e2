"""Persistent handles outlive a lost connection, the end of one smbd, of all
of them, and an orderly restart; nobody else gets in meanwhile."""

import os
import random
import shutil
import signal
import struct
import threading
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, Client, granted, lease_state
from smb2 import (ACCESS_DENIED, FILE_LOCK_CONFLICT, FILE_NOT_AVAILABLE,
                  INVALID_PARAMETER, LOCK_NOT_GRANTED, NAME_NOT_FOUND, OK,
                  SHARING_VIOLATION, StatusError)

class Handles(handles.Case):
    # ---- what is announced -------------------------------------------------

    def test_capabilities(self):
        client = self.client()
        self.assertEqual(0x10, client.tree.connection.capabilities & 0x10)
        self.assertEqual(0x10, client.tree.capabilities & 0x10)
        plain = self.client('plain')
        self.assertEqual(0, plain.tree.capabilities & 0x10)
        without = smb2.Connection(self.server.port, capabilities=0x6F)
        self.addCleanup(without.close)
        self.assertEqual(0, without.capabilities & 0x10)

    def test_granted_with_and_without_leases(self):
        client = self.client()
        for state in (None, 0, R, R | H, R | W, R | H | W):
            file = client.open(self.name('f%s' % state), state)
            self.assertEqual((60000, 2), granted(file), state)
            if state is not None:
                self.assertEqual(state, lease_state(file))
            file.close()
        for oplock in (0, 1, 8, 9):
            file = client.open(self.name('o%d' % oplock), oplock=oplock)
            self.assertEqual((60000, 2), granted(file), oplock)
            file.close()
        file = client.open(self.name('t'), timeout=120000)
        self.assertEqual((120000, 2), granted(file))

    def test_not_granted_elsewhere(self):
        client = self.client('plain')
        name = 'hvrs-%s' % uuid.uuid4().hex
        file = client.open(name, R | H | W,
                           options=smb2.DELETE_ON_CLOSE)
        self.assertEqual((60000, 0), granted(file))
        file.close()

    # ---- coming back ----------------------------------------------------------

    def check_way(self, way, state):
        client = self.client()
        file = client.open(self.name(), state, sharing=0)
        data = lab.pattern(100000)
        file.write(4096, data)
        self.assertEqual(OK, file.lock(10, 20))
        self.lose(way, client)
        for share in ('vm', 'vmalias', 'vmraw'):
            self.assertEqual(FILE_NOT_AVAILABLE, self.stranger(share), share)
        client.connect()
        again = client.reconnect(file)
        self.assertEqual(file.id[:8], again.id[:8])
        self.assertEqual(1, again.action)
        self.assertNotIn(b'DH2Q', again.contexts)
        if state is not None:
            self.assertEqual(state, lease_state(again))
        self.assertEqual(data, again.read(4096, len(data)))
        again.write(0, b'new')
        self.assertEqual(b'new', lab.content(
            self.directory + '/disk.vhdx', 0, 3))
        if not (state or 0) & H:
            for share in ('vm', 'vmalias', 'vmraw'):
                self.assertEqual(SHARING_VIOLATION, self.stranger(share),
                                 share)
        # Its lock is there again, and once.
        self.assertEqual(OK, again.lock(10, 20, unlock=True))
        self.assertEqual(smb2.RANGE_NOT_LOCKED,
                         again.lock(10, 20, unlock=True))
        self.assertEqual(OK, again.close())
        self.assertEqual(OK, self.stranger())
        self.server.alive()

    def test_lost_connection(self):
        self.check_way('lose_connection', R | H | W)

    def test_lost_connection_without_lease(self):
        self.check_way('lose_connection', None)

    def test_child_killed(self):
        self.check_way('kill_child', R | H | W)

    def test_child_killed_without_lease(self):
        self.check_way('kill_child', None)

    def test_all_killed(self):
        self.check_way('kill_all', R | H | W)

    def test_all_killed_without_lease(self):
        self.check_way('kill_all', None)

    def test_restart(self):
        self.check_way('restart', R | H | W)

    def test_again_and_again(self):
        client = self.client()
        file = client.open(self.name(), R | H | W, sharing=0)
        self.assertEqual(OK, file.lock(0, 1))
        for way in self.WAYS + self.WAYS:
            self.lose(way, client)
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(OK, file.lock(0, 1, unlock=True), way)
            self.assertEqual(OK, file.lock(0, 1), way)
            self.assertEqual(R | H | W, lease_state(file), way)

    def test_locks_keep_those_out_who_are_in(self):
        for way in ('lose_connection', 'kill_child'):
            name = self.name(way)
            client = self.client()
            other = self.client('vmraw')
            file = client.open(name)
            beside = other.tree.create(name)
            self.assertEqual(OK, file.lock(100, 10))
            self.lose(way, client)
            self.assertEqual(LOCK_NOT_GRANTED, beside.lock(105, 1))
            with self.assertRaises(StatusError) as caught:
                beside.write(100, b'x')
            self.assertEqual(FILE_LOCK_CONFLICT, caught.exception.status)
            self.assertEqual(OK, beside.lock(110, 1))
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(LOCK_NOT_GRANTED, beside.lock(105, 1))
            self.assertEqual(OK, file.lock(100, 10, unlock=True))
            self.assertEqual(OK, beside.lock(105, 1))
            beside.close()
            file.close()

    def test_locks_keep_those_out_who_wrote_before(self):
        """What a process has seen of a file's handles is not the end."""
        name = self.name()
        other = self.client('vmraw')
        beside = other.tree.create(name)
        clients = [self.client(), self.client()]
        files = []

        def refused():
            statuses = []
            for offset in (100, 200):
                try:
                    beside.write(offset, b'x')
                    statuses.append(OK)
                except StatusError as error:
                    statuses.append(error.status)
            return [status == FILE_LOCK_CONFLICT for status in statuses]

        def content():
            return [lab.content(self.directory + '/disk.vhdx', offset, 3)
                    for offset in (100, 200)]

        self.assertEqual([False, False], refused())
        for client in clients:
            files.append(client.open(name, None))
            self.assertEqual([False, False], refused())
        for file, offset in zip(files, (100, 200)):
            self.assertEqual(OK, file.lock(offset, 10))
            file.write(offset, b'own')
        for client in clients:
            self.lose('kill_child', client)
            self.assertEqual([True, True], refused())
            self.assertEqual([b'own', b'own'], content())
        clients[0].connect()
        self.assertEqual(OK, clients[0].reconnect(files[0]).close())
        self.assertEqual([False, True], refused())
        self.assertEqual([b'xwn', b'own'], content())
        clients[1].connect()
        file = clients[1].reconnect(files[1])
        self.assertEqual([False, True], refused())
        self.assertEqual(OK, file.lock(200, 10, unlock=True))
        self.assertEqual([False, False], refused())
        self.assertEqual([b'xwn', b'xwn'], content())
        self.assertEqual(OK, file.close())
        beside.close()

    def test_unlocked_stays_unlocked(self):
        client = self.client()
        file = client.open(self.name())
        self.assertEqual(OK, file.lock(0, 10))
        self.assertEqual(OK, file.lock(20, 10))
        self.assertEqual(OK, file.lock(0, 10, unlock=True))
        self.kill_all(client)
        client.connect()
        file = client.reconnect(file)
        other = self.client()
        beside = other.tree.create(self.name())
        self.assertEqual(OK, beside.lock(0, 10))
        self.assertEqual(LOCK_NOT_GRANTED, beside.lock(25, 1))

    def test_lock_sequence_survives(self):
        for way in ('lose_connection', 'kill_child', 'kill_all'):
            client = self.client()
            file = client.open(self.name(way))
            self.assertEqual(OK, file.lock(0, 10, sequence=0x15))
            self.lose(way, client)
            client.connect()
            file = client.reconnect(file)
            # The same request again is answered, not done.
            self.assertEqual(OK, file.lock(0, 10, sequence=0x15), way)
            self.assertEqual(OK, file.lock(0, 10, unlock=True), way)
            self.assertEqual(smb2.RANGE_NOT_LOCKED,
                             file.lock(0, 10, unlock=True), way)

    def test_a_refused_lock_forgets_the_sequence(self):
        """The number of the last success comes again after 16 refused
        requests, and is no replay of it then."""
        for way in ('kill_child', 'kill_all'):
            client = self.client()
            file = client.open(self.name(way))
            self.assertEqual(OK, file.lock(0, 1, sequence=0x15))
            self.assertEqual(OK, file.lock(0, 1, unlock=True, sequence=0x16))
            other = self.client()
            beside = other.open(self.name(way))
            self.assertEqual(OK, beside.lock(0, 1))
            for number in range(7, 7 + 15):
                self.assertEqual(LOCK_NOT_GRANTED, file.lock(
                    0, 1, sequence=0x10 | number % 16), way)
            if way == 'kill_all':
                self.kill_all(client)
            else:
                self.lose(way, client)
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(LOCK_NOT_GRANTED,
                             file.lock(0, 1, sequence=0x16), way)

    def test_delete_on_close(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name(way),
                               options=smb2.DELETE_ON_CLOSE)
            self.lose(way, client)
            path = '%s/%s' % (self.directory, way)
            self.assertTrue(os.path.exists(path), way)
            client.connect()
            file = client.reconnect(file)
            self.assertTrue(os.path.exists(path), way)
            file.close()
            self.assertFalse(os.path.exists(path), way)

    def replaced(self, name):
        """The file is deleted behind the server's back, and the next one of
        its name has its inode."""
        path = '%s/%s' % (self.directory, name)
        inode = os.stat(path).st_ino
        os.unlink(path)
        for _ in range(1000):
            with open(path, 'wb') as file:
                file.write(b'restored')
            if os.stat(path).st_ino == inode:
                shutil.chown(path, 'hvrs', 'hvrs')
                return path
            os.rename(path, '%s/other%d' % (self.directory, _))
        self.fail('no inode comes again')

    def test_a_file_that_took_the_inode(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name(way), state=R | H | W, sharing=0)
            file.write(0, b'was here')
            self.assertEqual(OK, file.lock(0, 8))
            gone = client.open(self.name(way + '2'),
                               options=smb2.DELETE_ON_CLOSE, timeout=1000)
            self.lose(way, client)
            path = self.replaced(way)
            other = self.replaced(way + '2')
            # Who waits gets it not, and nobody waits for him.
            client.connect()
            self.assertEqual(NAME_NOT_FOUND,
                             client.reconnect_status(file), way)
            self.assertEqual(OK, self.stranger(name=self.name(way),
                                               sharing=0), way)
            mine = client.tree.create(self.name(way))
            mine.write(0, b'new data')
            mine.close()
            with open(path, 'rb') as new:
                self.assertEqual(b'new data', new.read())
            # Nor is it deleted in the other's place.
            time.sleep(1.2)
            self.assertEqual(NAME_NOT_FOUND,
                             client.reconnect_status(gone), way)
            self.assertEqual(OK, self.stranger(name=self.name(way + '2')))
            with open(other, 'rb') as new:
                self.assertEqual(b'restored', new.read())

    def test_disposition(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name(way))
            self.assertEqual(OK, file.set_info(13, b'\x01'))
            self.lose(way, client)
            client.connect()
            file = client.reconnect(file)
            path = '%s/%s' % (self.directory, way)
            self.assertTrue(os.path.exists(path), way)
            file.close()
            self.assertFalse(os.path.exists(path), way)

    def test_renamed(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name('old-' + way))
            file.write(0, b'content')
            new = self.name('new-' + way)
            text = new.replace('/', '\\').encode('utf-16-le')
            self.assertEqual(OK, file.set_info(
                10, struct.pack('<B7xQI', 0, 0, len(text)) + text))
            self.lose(way, client)
            client.connect()
            file.name = new
            again = client.reconnect(file)
            self.assertEqual(b'content', again.read(0, 7), way)
            again.close()

    def test_directories(self):
        for way in self.WAYS:
            client = self.client()
            folder = client.open(self.name(way), sharing=smb2.SHARE_READ,
                                 options=smb2.DIRECTORY,
                                 access=smb2.READ_ONLY | smb2.DELETE)
            self.assertEqual((60000, 2), granted(folder))
            client.open(self.name(way + '/inside')).close()
            self.lose(way, client)
            # Listing is what it allows, deleting is not.
            for share in ('vm', 'vmraw'):
                self.assertEqual(FILE_NOT_AVAILABLE, self.stranger(
                    share, self.name(way), options=smb2.DIRECTORY,
                    disposition=smb2.OPEN, access=smb2.DELETE), way)
            client.connect()
            folder = client.reconnect(folder)
            self.assertIn('inside', folder.list())
            self.assertEqual(SHARING_VIOLATION, self.stranger(
                'vmraw', self.name(way), options=smb2.DIRECTORY,
                disposition=smb2.OPEN, access=smb2.DELETE), way)
            folder.close()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(folder))
            self.assertEqual(OK, self.stranger(
                'vmraw', self.name(way), options=smb2.DIRECTORY,
                disposition=smb2.OPEN, access=smb2.DELETE), way)

    def test_renamed_by_another(self):
        """The file of two handles, by a third, through another share."""
        for way in self.WAYS:
            client, other = self.client(), self.client('vmraw')
            first = client.open(self.name('a-' + way))
            second = client.open(self.name('a-' + way))
            third = other.tree.create(self.name('a-' + way),
                                      access=smb2.DELETE |
                                      smb2.READ_ATTRIBUTES)
            new = self.name('b-' + way)
            text = new.replace('/', '\\').encode('utf-16-le')
            self.assertEqual(OK, third.set_info(
                10, struct.pack('<B7xQI', 0, 0, len(text)) + text))
            third.close()
            self.assertEqual(OK, first.lock(0, 1))
            self.lose(way, client)
            client.connect()
            for file in (first, second):
                file.name = new
                client.reconnect(file).close()

    def test_lease_that_was_raised(self):
        for way in ('lose_connection', 'kill_child', 'kill_all'):
            client = self.client()
            key = uuid.uuid4().bytes
            first = client.open(self.name(way), R, key=key)
            second = client.open(self.name(way), R | H | W, key=key)
            self.assertEqual(R | H | W, lease_state(second))
            self.lose(way, client)
            client.connect()
            self.assertEqual(R | H | W,
                             lease_state(client.reconnect(first)), way)
            self.assertEqual(R | H | W,
                             lease_state(client.reconnect(second)), way)

    # ---- who may not -----------------------------------------------------------

    def test_others_cannot_reclaim(self):
        for way in ('lose_connection', 'kill_child', 'kill_all'):
            client = self.client()
            file = client.open(self.name(way), R | H | W)
            self.lose(way, client)
            other = self.client(user='hvrsadmin', guid=client.guid)
            self.assertEqual(ACCESS_DENIED, other.reconnect_status(file))
            other.drop()
            other = self.client()
            self.assertEqual(NAME_NOT_FOUND, other.reconnect_status(file))
            other.drop()
            other = self.client('vmalias', guid=client.guid)
            self.assertEqual(NAME_NOT_FOUND, other.reconnect_status(file))
            other.drop()
            client.connect()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(
                file, guid=uuid.uuid4().bytes))
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(
                file, flags=0))
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(
                file, key=uuid.uuid4().bytes))
            again = client.reconnect(file)
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(again))
            again.close()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(again))

    def test_logoff_keeps_and_tree_disconnect_closes(self):
        client = self.client()
        file = client.open(self.name(), R | H | W)
        client.tree.session.logoff()
        client.drop()
        client.connect()
        file = client.reconnect(file)
        client.tree.disconnect()
        client.tree = smb2.Tree(client.tree.session, 'vm')
        self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))
        self.assertEqual(OK, self.stranger())

    def test_session_that_replaces_another(self):
        """The old connection still stands when the client is back."""
        client = self.client()
        file = client.open(self.name(), R | H | W, sharing=0)
        self.assertEqual(OK, file.lock(1, 1))
        old = client.tree.connection
        client.connect()
        self.addCleanup(old.close)
        file = client.reconnect(file)
        self.assertEqual(OK, file.lock(1, 1, unlock=True))

    def test_many_want_one_handle_at_once(self):
        """One of them gets it, whatever ended before."""
        for way in ('kill_child', 'kill_all', 'lose_connection'):
            client = self.client()
            file = client.open(self.name(way), R | H | W, sharing=0)
            file.write(0, b'mine')
            self.assertEqual(OK, file.lock(0, 4))
            self.lose(way, client)
            users = ['hvrs'] * 5 + ['other', 'hvrsadmin']
            # Not one client: smbd would give them one process.
            trees = [(user, self.server.connect('vm', user))
                     for user in users]
            client.connect()
            start, seen = threading.Barrier(len(trees) + 1), []

            def want(user, tree):
                start.wait()
                mid = Client.reconnect_send(holder(tree), file)
                seen.append((user, tree.connection.wait(mid).status))
            threads = [threading.Thread(target=want, args=pair)
                       for pair in trees]
            for thread in threads:
                thread.start()
            start.wait()
            file = client.reconnect(file)
            for thread in threads:
                thread.join()
            # The lease is the client's whose GUID it was opened with.
            self.assertEqual({NAME_NOT_FOUND}, {s for _, s in seen}, way)
            self.assertEqual(b'mine', file.read(0, 4))
            self.assertEqual(OK, file.lock(0, 4, unlock=True))
            file.close()
            for _, tree in trees:
                tree.connection.close()

    def test_login_with_the_session_of_a_zombie(self):
        """Its process is dead, but smbd has not heard of it yet."""
        client = self.client()
        pid = handles.child_of(self.server, client.tree)
        connection = smb2.Connection(self.server.port)
        self.addCleanup(connection.close)
        main = self.server.process.pid
        os.kill(main, signal.SIGSTOP)
        heard = threading.Timer(0.5, os.kill, (main, signal.SIGCONT))
        heard.start()
        try:
            lab.kill(pid)
            while lab.state(pid) not in 'ZX':
                time.sleep(0.001)
            smb2.Session(connection, 'hvrs', 'hvrs', client.previous)
        finally:
            heard.join()

    # ---- the time is over -------------------------------------------------------

    def test_time_is_over(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name(way), timeout=1500, sharing=0)
            self.lose(way, client)
            self.assertEqual(FILE_NOT_AVAILABLE,
                             self.stranger(name=self.name(way)), way)
            time.sleep(2)
            self.assertEqual(OK, self.stranger('vmraw',
                                               name=self.name(way)), way)
            client.connect()
            self.assertEqual(NAME_NOT_FOUND, client.reconnect_status(file))
            # And the CREATE, sent again, is the first of its kind.
            again = client.tree.create(self.name(way), flags=0x20000000,
                                       contexts=[handles.dh2q(
                                           file.create_guid)])
            self.assertEqual((60000, 2), granted(again), way)
            again.close()

    def test_deleted_when_the_time_is_over(self):
        client = self.client()
        client.open(self.name(), timeout=1000, options=smb2.DELETE_ON_CLOSE)
        self.kill_all(client)
        time.sleep(1.5)
        # A new client is enough, whatever it does.
        self.client()
        for _ in range(100):
            if not os.path.exists(self.directory + '/disk.vhdx'):
                return
            time.sleep(0.05)
        self.fail('the file is still there')

    def test_closed_handles_leave_nothing(self):
        client = self.client()
        for i in range(50):
            client.open(self.name('f%d' % i), R | H | W).close()
        self.kill_all(client)
        for i in range(50):
            self.assertEqual(OK, self.stranger(name=self.name('f%d' % i)))

    def test_directory_above_cannot_be_renamed(self):
        for way in ('kill_child', 'kill_all'):
            client = self.client()
            file = client.open(self.name())
            self.lose(way, client)
            other = self.client()
            above = other.tree.create(
                os.path.basename(self.directory), disposition=smb2.OPEN,
                access=smb2.DELETE | smb2.READ_ATTRIBUTES,
                options=smb2.DIRECTORY)
            text = 'elsewhere'.encode('utf-16-le')
            self.assertEqual(ACCESS_DENIED, above.set_info(
                10, struct.pack('<B7xQI', 0, 0, len(text)) + text), way)
            above.close()
            client.connect()
            client.reconnect(file).close()

    def test_stopped_process(self):
        """A zombie with writes in flight does not overwrite newer data."""
        client = self.client()
        file = client.open(self.name(), R | H | W)
        file.write(0, b'first')
        pid = handles.child_of(self.server, client.tree)
        os.kill(pid, 19)
        for i in range(8):
            file.write_send(0, b'older')
        old = client.tree
        client.connect()
        self.addCleanup(old.connection.close)
        again = client.reconnect(file)
        again.write(0, b'newer')
        try:
            os.kill(pid, 18)
        except ProcessLookupError:
            pass
        time.sleep(0.5)
        self.assertEqual(b'newer', lab.content(
            self.directory + '/disk.vhdx', 0, 5))
        self.assertEqual(b'newer', again.read(0, 5))

    def test_replayed_create(self):
        """The reply to the CREATE was lost."""
        for way in ('kill_child', 'kill_all', 'lose_connection'):
            client = self.client()
            guid = uuid.uuid4().bytes
            how = dict(contexts=[handles.dh2q(guid)], sharing=0,
                       disposition=smb2.CREATE_NEW)
            first = client.tree.create(self.name(way), **how)
            self.lose(way, client)
            client.connect()
            with self.assertRaises(StatusError) as caught:
                client.tree.create(self.name(way), contexts=[
                    handles.dh2q(guid)], disposition=smb2.OPEN_IF,
                    flags=0x20000000)
            self.assertEqual(smb2.CONTEXT_MISMATCH, caught.exception.status)
            again = client.tree.create(self.name(way), flags=0x20000000,
                                       **how)
            self.assertEqual((60000, 2), granted(again), way)
            self.assertEqual(first.action, again.action, way)
            again.close()

    @unittest.skipIf(lab.SERIES < (4, 24), 'each process remembers its own')
    def test_replay_beside_a_cleanup(self):
        """smbd has taken away the open of a process that died, and not yet
        the note of the CREATE that made it."""
        import tdb
        client = self.client()
        how = dict(contexts=[handles.dh2q(uuid.uuid4().bytes)], sharing=0,
                   disposition=smb2.CREATE_NEW)
        first = client.tree.create(self.name(), **how)
        self.kill_child(client)
        opens = tdb.Tdb(self.server.directory +
                        '/lock/smbXsrv_open_global.tdb', 0, tdb.NOLOCK,
                        os.O_RDWR)
        opens.delete(struct.pack('>I', *struct.unpack('<I', first.id[:4])))
        opens.close()
        client.connect()
        again = client.tree.create(self.name(), flags=0x20000000, **how)
        self.assertEqual((60000, 2), granted(again))
        self.assertEqual(first.action, again.action)

    def test_replay_of_what_another_connection_has(self):
        client, other = self.client(), self.client()
        file = client.open(self.name())
        with self.assertRaises(StatusError) as caught:
            other.tree.create(self.name(), flags=0x20000000, contexts=[
                handles.dh2q(file.create_guid)])
        self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)

    def test_replay_of_what_still_waits(self):
        """It has to come again, and does not become a second open."""
        other, client = self.client(), self.client()
        key = other.open(self.name(), R | H | W).key
        how = dict(contexts=[handles.dh2q(uuid.uuid4().bytes)])
        first = client.tree.create_send(self.name(), **how)
        self.assertEqual(smb2.OPLOCK_BREAK,
                         other.tree.connection.receive().command)
        with self.assertRaises(StatusError) as caught:
            client.tree.create(self.name(), flags=0x20000000, **how)
        self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
        self.assertEqual(OK, other.tree.call(smb2.OPLOCK_BREAK, struct.pack(
            '<HHI16sIQ', 36, 0, 0, key, R | H, 0)).status)
        reply = client.tree.connection.wait(first)
        self.assertEqual(OK, reply.status)
        again = client.tree.create(self.name(), flags=0x20000000, **how)
        self.assertEqual(reply.body[64:80], again.id)

    def test_strict_sync_is_refused(self):
        self.server.shares = dict(handles.SHARES, vm=['vfs objects = hvrs',
                                              'strict sync = no'])
        self.server.reload()
        for _ in range(100):
            try:
                self.client()
            except StatusError:
                break
            time.sleep(0.05)
        else:
            self.fail('the share was connected')
        self.assertEqual(1, len(set(line.split('hvrs:', 1)[1] for line in
                                    self.server.lines('strict sync = no'))))


def holder(tree):
    """A client of a connection that is there already."""
    client = Client.__new__(Client)
    client.tree = tree
    return client


class Contended(handles.Case):
    def hammer(self, share, name, stop, seen):
        client = None
        while not stop.is_set():
            try:
                if client is None:
                    client = Client(self.server, share)
                file = client.tree.create(name, disposition=smb2.OPEN)
                seen.append((share, OK))
                file.close()
            except StatusError as error:
                seen.append((share, error.status))
            except (ConnectionError, OSError, struct.error):
                client = None
        if client is not None:
            client.drop()

    def check(self, ways, rounds):
        """Strangers never get in, whatever happens to the owner."""
        name = self.name()
        client = self.client()
        file = client.open(name, R | W, sharing=0)
        stop, seen = threading.Event(), []
        threads = [threading.Thread(target=self.hammer, args=(
            share, name, stop, seen)) for share in ('vm', 'vmraw')]
        for thread in threads:
            thread.start()
        try:
            for i in range(rounds):
                file.write(0, struct.pack('<I', i))
                self.assertEqual(OK, file.lock(i, 1))
                self.lose(ways[i % len(ways)], client)
                time.sleep(0.02)
                client.connect()
                file = client.reconnect(file)
                self.assertEqual(struct.pack('<I', i), file.read(0, 4))
                self.assertEqual(OK, file.lock(i, 1, unlock=True))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual({FILE_NOT_AVAILABLE, SHARING_VIOLATION},
                         {status for _, status in seen})
        self.assertGreater(len(seen), rounds)

    def test_lost_connections(self):
        self.check(('lose_connection', 'kill_child'), 40)

    def test_everything(self):
        self.check(self.WAYS, 16)


class InBetween(handles.Case):
    def ask_again(self, client, name, how):
        try:
            file = client.tree.create(name, flags=0x20000000, **how)
            self.assertEqual(2, file.action)
        except StatusError as error:
            # The end came after the file and before its record.
            self.assertEqual(smb2.NAME_COLLISION, error.status)
            how['disposition'] = smb2.OPEN
            file = client.tree.create(name, **how)
        self.assertEqual((60000, 2), granted(file))
        return file

    def test_killed_between_requests_and_replies(self):
        """What was answered comes back; what was not can be asked again."""
        client = self.client()
        for i in range(20):
            asked, answered = [], {}
            pid = handles.child_of(self.server, client.tree)
            for j in range(12):
                guid, name = uuid.uuid4().bytes, self.name('%d-%d' % (i, j))
                how = dict(contexts=[handles.dh2q(guid)], sharing=0,
                           disposition=smb2.CREATE_NEW)
                asked.append((name, guid, how, client.tree.create_send(
                    name, **how)))
            time.sleep(random.random() * 0.02)
            if i % 4 == 3:
                self.server.kill()
            else:
                lab.kill(pid)
            try:
                while True:
                    reply = client.tree.connection.receive()
                    if reply.command == smb2.CREATE:
                        answered[reply.mid] = smb2.File(client.tree,
                                                        reply.body)
            except (ConnectionError, struct.error):
                pass
            handles.gone(pid)
            client.drop()
            if i % 4 == 3:
                self.server.start()
            client.connect()
            for name, guid, how, mid in asked:
                file = answered.get(mid)
                if file is not None:
                    self.assertEqual((60000, 2), granted(file))
                    file.create_guid, file.key, file.name = guid, None, name
                    again = client.reconnect(file)
                else:
                    again = self.ask_again(client, name, how)
                self.assertEqual(SHARING_VIOLATION,
                                 self.stranger('vmraw', name))
                again.close()


class WithoutSync(handles.Case):
    settings = ('hvrs:handle store sync = no',)

    def test_outlives_smbd(self):
        for way in self.WAYS:
            client = self.client()
            file = client.open(self.name(way), R | H | W, sharing=0)
            self.assertEqual((60000, 2), granted(file))
            self.assertEqual(OK, file.lock(0, 1))
            self.lose(way, client)
            client.connect()
            file = client.reconnect(file)
            self.assertEqual(OK, file.lock(0, 1, unlock=True), way)


if __name__ == '__main__':
    unittest.main()
