"""smbd ends at every step of an open, a lock, a close and a reconnect."""

import struct
import time
import unittest
import uuid

import handles
import smb2
from handles import H, R, W, granted, lease_state
from smb2 import FILE_NOT_AVAILABLE, LOCK_NOT_GRANTED, NAME_NOT_FOUND, OK

REPLAY = 0x20000000
STORED = ('append', 'appended', 'indexed', 'flush', 'flushed', 'answer',
          'answered')
OPEN = ('open', 'opened') + STORED
BACK = ('claimed', 'entered', 'rebuilt') + STORED
CLOSE = ('close', 'closed', 'dropped')


class Steps(handles.Case):
    def ends_at(self, step, what):
        """Does it with the end of smbd ahead; its answer, or None."""
        self.server.die_at(step)
        try:
            answer = what()
        except (OSError, struct.error):
            answer = None
        for _ in range(200):
            if self.server.has_died(step):
                return answer
            time.sleep(0.01)
        self.fail('nobody came by ' + step)

    def after(self, client, everything):
        """The child has ended; all of smbd, if asked."""
        if everything:
            self.server.kill()
            self.server.start()
        client.drop()

    def kept_out(self, name, step):
        for share in ('vm', 'vmraw'):
            self.assertEqual(FILE_NOT_AVAILABLE, self.stranger(share, name),
                             (step, share))

    def each(self, steps):
        for everything in (False, True):
            for step in steps:
                yield everything, step, self.name('%s%d' % (step,
                                                            everything))

    def test_open(self):
        for everything, step, name in self.each(OPEN):
            client = self.client()
            guid, key = uuid.uuid4().bytes, uuid.uuid4().bytes
            how = dict(contexts=[handles.dh2q(guid),
                                 handles.lease(key, R | H | W)],
                       oplock=0xFF, sharing=0)
            file = self.ends_at(step, lambda: client.tree.create(name,
                                                                 **how))
            self.after(client, everything)
            # Told is what is kept; the wire may lose the last answer.
            if step != 'answered':
                self.assertIsNone(file, step)
            if file is not None:
                self.assertEqual((60000, 2), granted(file))
            if file is not None or step in ('flushed', 'answer', 'answered'):
                self.kept_out(name, step)
            client.connect()
            again = client.tree.create(name, flags=REPLAY, **how)
            self.assertEqual((60000, 2), granted(again), step)
            self.assertEqual(R | H | W, lease_state(again), step)
            again.write(0, b'data')
            self.assertEqual(OK, again.lock(0, 1))
            self.assertEqual(OK, again.close())
            self.assertEqual(OK, self.stranger('vmraw', name), step)
            client.drop()

    def test_lock(self):
        for everything, step, name in self.each(STORED):
            client = self.client()
            file = client.open(name)
            status = self.ends_at(step, lambda: file.lock(5, 5,
                                                          sequence=0x11))
            self.after(client, everything)
            client.connect()
            file = client.reconnect(file)
            # The same again, as a client does that has no answer.
            self.assertEqual(OK, file.lock(5, 5, sequence=0x11), step)
            other = self.client('vmraw')
            beside = other.tree.create(name)
            self.assertEqual(LOCK_NOT_GRANTED, beside.lock(5, 1), step)
            self.assertEqual(OK, file.lock(5, 5, unlock=True), step)
            self.assertEqual(OK, beside.lock(5, 1), step)
            if status is not None:
                self.assertEqual((OK, 'answered'), (status, step))
            self.assertEqual(OK, file.close())
            client.drop()
            other.drop()

    def test_reconnect(self):
        for everything, step, name in self.each(BACK):
            client = self.client()
            file = client.open(name, R | H | W, sharing=0)
            file.write(0, b'data')
            self.assertEqual(OK, file.lock(5, 5))
            self.lose_connection(client)
            client.connect()
            self.ends_at(step, lambda: client.reconnect(file))
            self.after(client, everything)
            self.kept_out(name, step)
            client.connect()
            again = client.reconnect(file)
            self.assertEqual(R | H | W, lease_state(again), step)
            self.assertEqual(b'data', again.read(0, 4))
            self.assertEqual(OK, again.lock(5, 5, unlock=True), step)
            self.assertEqual(OK, again.close())
            client.drop()

    def test_close(self):
        for everything, step, name in self.each(CLOSE):
            client = self.client()
            file = client.open(name, R | H | W, sharing=0)
            self.ends_at(step, file.close)
            self.after(client, everything)
            client.connect()
            status = client.reconnect_status(file)
            if step == 'dropped':
                self.assertEqual(NAME_NOT_FOUND, status)
            else:
                # Not answered: the client has it, and closes it again.
                self.assertEqual(OK, status, step)
                client.drop()
                client.connect()
                self.assertEqual(OK, client.reconnect(file).close(), step)
            self.assertEqual(OK, self.stranger('vmraw', name), step)
            client.drop()


if __name__ == '__main__':
    unittest.main()
