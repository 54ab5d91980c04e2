"""Many clients at once on one disk, each with an smbd of its own and pages of
its own in every block, so that allocations collide; smbd killed at random;
reservations that change hands.  In the end the disk agrees with a model, read
through the server and by another implementation from below.

HVRS_LONG=SECONDS makes it longer."""

import os
import random
import signal
import struct
import threading
import time
import unittest

import lab
import rsvd
import smb2
from rsvd import ABORT, CONFLICT, IGNORE, RESERVE, WE_RO

PAGE = 4096
SECONDS = float(os.environ.get('HVRS_LONG') or 6)


class Client(threading.Thread):
    """Owns every count-th page."""

    def __init__(self, case, index, count, seed):
        super().__init__()
        self.case, self.index, self.count = case, index, count
        self.random = random.Random(seed)
        self.pages = case.SIZE // PAGE
        self.model = {}
        self.failure = None
        self.killed = self.done = 0
        self.until = 0
        self.disk = case.disk(tree=case.server.connect('vm'))
        self.process = rsvd.server_process(case.server, self.disk)

    def run(self):
        try:
            while time.monotonic() < self.until:
                self.step()
            known = list(self.model)
            for at in range(0, len(known), 32):
                self.verify(known[at:at + 32])
        except Exception as error:
            self.failure = error
            raise

    def page(self):
        at = self.random.randrange(self.pages // self.count)
        return at * self.count + self.index

    def step(self):
        action = self.random.random()
        if action < 0.02 and self.case.KILL:
            self.die()
        elif action < 0.7:
            self.writes()
        elif action < 0.75:
            self.unmap(self.page())
        else:
            self.verify([self.page() for _ in range(4)])

    def data(self):
        return struct.pack('<QQ', self.random.getrandbits(64),
                           self.index) * (PAGE // 16)

    def send(self, page, data):
        if self.random.random() < 0.5:
            return 'smb', self.disk.write_send(page * PAGE, data)
        cdb = struct.pack('>BBQIBB', 0x8A, 0, page * 8, 8, 0, 0)
        return 'scsi', self.disk.scsi_send(cdb, data)

    def end(self, sent):
        kind, what = sent
        if kind == 'smb':
            status = self.disk.tree.connection.wait(what).status
            assert status == 0, hex(status)
        else:
            result = self.disk.scsi_end(what)
            assert result.status == 0, '%06x' % result.sense

    def writes(self, end=True):
        todo = {self.page(): self.data() for _ in range(
            self.random.randrange(1, 6))}
        sent = [(page, self.send(page, data))
                for page, data in todo.items()]
        if not end:
            return todo
        for page, one in sent:
            self.end(one)
            self.model[page] = todo[page]
            self.done += 1
        return todo

    def unmap(self, page):
        data = struct.pack('>HHIQII', 22, 16, 0, page * 8, 8, 0)
        result = self.disk.scsi([0x42, 0, 0, 0, 0, 0, 0, 0, 24], data)
        assert result.status == 0
        self.model[page] = bytes(PAGE)

    def verify(self, pages):
        mids = [self.disk.read_send(page * PAGE, PAGE) for page in pages]
        for page, mid in zip(pages, mids):
            reply = self.disk.tree.connection.wait(mid)
            assert reply.status == 0, hex(reply.status)
            got = reply.body[16:16 + PAGE]
            wanted = self.model.get(page, bytes(PAGE))
            assert got == wanted, 'client %d, page %d: %s, wanted %s' % (
                self.index, page, got[:16].hex(), wanted[:16].hex())

    def die(self):
        """smbd is killed with writes under way: each is old or new."""
        todo = self.writes(end=False)
        time.sleep(self.random.random() * 0.003)
        os.kill(self.process, signal.SIGKILL)
        self.killed += 1
        initiator = self.disk.initiator
        self.disk.tree.connection.close()
        self.disk = self.case.disk(tree=self.case.server.connect('vm'),
                                   initiator=initiator)
        self.process = rsvd.server_process(self.case.server, self.disk)
        for page, data in todo.items():
            status, got = self.disk.read_status(page * PAGE, PAGE)
            assert status == 0, hex(status)
            old = self.model.get(page, bytes(PAGE))
            for at in range(0, PAGE, 512):
                piece = got[at:at + 512]
                assert piece in (old[at:at + 512], data[at:at + 512]), page
            self.model[page] = got


class Many(rsvd.Case):

    SIZE = 64 * lab.MIB
    KILL = True
    COUNT = 8

    def setUp(self):
        super().setUp()
        # Somebody keeps the disk attached.
        self.keeper = self.disk()

    def settle(self, clients):
        """Both views of the disk agree with what the clients know."""
        wanted = bytearray(self.SIZE)
        for client in clients:
            for page, data in client.model.items():
                wanted[page * PAGE:(page + 1) * PAGE] = data
        for at in range(0, self.SIZE, lab.MIB):
            self.assert_bytes(bytes(wanted[at:at + lab.MIB]),
                              self.keeper.read_status(at, lab.MIB)[1],
                              'MiB %d' % (at // lab.MIB))
        self.keeper.close()
        for client in clients:
            client.disk.close()
            client.disk.tree.connection.close()
        # A killed smbd may have left a log, which is for the next open.
        again = self.disk()
        again.write_status(0, again.read_status(0, PAGE)[1])
        again.close()
        lab.run('qemu-img', 'check', self.image)
        lab.run('qemu-img', 'convert', '-O', 'raw', self.image,
                self.path('raw'))
        self.assert_bytes(bytes(wanted), lab.content(self.path('raw')))

    def together(self, count, seconds):
        seed = random.randrange(1 << 30)
        print('seed %d ' % seed, end='', flush=True)
        clients = [Client(self, i, count, seed + i) for i in range(count)]
        for client in clients:
            client.until = time.monotonic() + seconds
            client.start()
        for client in clients:
            client.join(seconds + 120)
            self.assertFalse(client.is_alive())
        for client in clients:
            if client.failure is not None:
                raise client.failure
        self.assertGreater(sum(client.done for client in clients), 50)
        if self.KILL:
            self.assertGreater(sum(client.killed for client in clients), 0)
        self.settle(clients)
        self.server.alive()

    def test_two_clients(self):
        self.together(2, SECONDS)

    def test_eight_clients(self):
        self.together(8, SECONDS)


class OneHost(rsvd.Case):
    """Two machines of one host: both have the disk open in one smbd, which
    must not wait in the one for what only its loop ends in the other."""

    BLOCKS = 512

    def test_opens_and_closes_beside_writes_that_take_blocks(self):
        rsvd.make_disk(self.image, self.BLOCKS * lab.MIB)
        disk = self.disk()
        connection = self.tree.connection
        connection.socket.settimeout(20)
        for at in range(0, self.BLOCKS, 8):
            mids = self.begin(disk, at)
            other = self.disk()
            self.expect(0, other.write_status((at + 1) * lab.MIB + PAGE,
                                              self.data(at)))
            other.close()
            mids += self.begin(disk, at + 4)
            other = self.disk()
            for mid in mids:
                self.expect(0, connection.wait(mid).status)
            for i in range(8):
                self.assertEqual((0, self.data(at + i)), other.read_status(
                    (at + i) * lab.MIB, PAGE))
            other.close()
        disk.close()
        lab.run('qemu-img', 'check', self.image)
        disk = self.disk()
        for at in range(self.BLOCKS):
            wanted = self.data(at) + (self.data(at - 1) if at % 8 == 1
                                      else bytes(PAGE))
            self.assertEqual((0, wanted), disk.read_status(at * lab.MIB,
                                                           2 * PAGE))

    def begin(self, disk, at):
        return [disk.write_send((at + i) * lab.MIB, self.data(at + i))
                for i in range(4)]

    def data(self, at):
        return lab.pattern(PAGE, at + 1)


class Changing(rsvd.Case):
    """Clients that take the disk from each other: who was answered GOOD and
    has not been preempted since is the only one whose writes succeed."""

    def test_a_reservation_has_one_owner(self):
        count = 4
        disks = [self.disk(tree=self.server.connect('vm'))
                 for _ in range(count)]
        lock = threading.Lock()
        state = {'owner': None, 'stamp': 0}
        failures = []
        until = time.monotonic() + SECONDS

        def writer(index):
            """Writes its stamp with the reservation, and reads it back."""
            disk, mine = disks[index], random.Random(index)
            try:
                while time.monotonic() < until:
                    self.take(disk, index + 1, lock, state)
                    for _ in range(mine.randrange(1, 6)):
                        self.stamp(disk, index + 1, lock, state)
            except Exception as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=writer, args=(i,))
                   for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60 + SECONDS)
            self.assertFalse(thread.is_alive())
        if failures:
            raise failures[0]
        self.assertGreater(state['stamp'], 20)
        for disk in disks:
            disk.tree.connection.close()

    def take(self, disk, key, lock, state):
        with lock:
            while disk.pr_out(IGNORE, 0, 0, key).status == rsvd.CHECK:
                pass
            held = disk.reservation()
            if held is None:
                self.good(disk.pr_out(RESERVE, WE_RO, key))
            elif held[0] != key:
                self.good(disk.pr_out(ABORT, WE_RO, key, held[0]))
            state['owner'] = key
            # The winner's own write must stay from here on.
            state['stamp'] += 1
            data = struct.pack('<QQ', state['stamp'], key) * 256
            self.expect(0, disk.write_status(0, data))
            self.assert_bytes(data, disk.read_status(0, PAGE)[1])

    def stamp(self, disk, key, lock, state):
        """A write outside the lock: it may succeed only for the owner."""
        data = struct.pack('<QQ', (1 << 40) + state['stamp'], key) * 256
        status = disk.write_status(PAGE * (1 + key), data)
        if status == 0:
            return
        # Preempted: the attention first, then conflicts.
        self.assertIn(status, (CONFLICT, rsvd.REG_PREEMPTED,
                               rsvd.RES_RELEASED, rsvd.RES_PREEMPTED))


if __name__ == '__main__':
    unittest.main()
