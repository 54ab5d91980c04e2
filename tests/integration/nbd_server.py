"""An NBD server whose disk is a shared virtual disk: with nbdfuse and a loop
device the kernel puts file systems on it, as a guest would."""

import socket
import struct
import threading

import rsvd


class Server(threading.Thread):
    """One client at a time, on a Unix socket."""

    def __init__(self, disk, size, path):
        super().__init__(daemon=True)
        self.disk, self.size, self.path = disk, size, path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(4)
        self.failures = []

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                self.serve(client)
            except (ConnectionError, OSError):
                pass
            except Exception as error:
                self.failures.append(repr(error))
            client.close()

    def close(self):
        self.listener.close()

    def exactly(self, client, length):
        data = bytearray()
        while len(data) < length:
            more = client.recv(length - len(data))
            if not more:
                raise ConnectionError
            data += more
        return bytes(data)

    def serve(self, client):
        client.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
        self.exactly(client, 4)
        # has flags, flush, FUA, trim
        export = struct.pack('>QH', self.size, 1 | 4 | 8 | 0x20)
        while True:
            _, option, length = struct.unpack('>8sII',
                                              self.exactly(client, 16))
            self.exactly(client, length)
            reply = lambda kind, data=b'': client.sendall(struct.pack(
                '>QIII', 0x3E889045565A9, option, kind, len(data)) + data)
            if option == 1:
                client.sendall(export + bytes(124))
                break
            if option in (6, 7):
                reply(3, struct.pack('>H', 0) + export)
                reply(1)
                if option == 7:
                    break
            elif option == 2:
                reply(1)
                return
            else:
                reply(0x80000001)
        while self.request(client):
            pass

    def request(self, client):
        _, flags, kind, handle, offset, length = struct.unpack(
            '>IHHQQI', self.exactly(client, 28))
        data, error = b'', 0
        if kind == 0:
            error, data = self.disk.read_status(offset, length)
        elif kind == 1:
            data = self.exactly(client, length)
            error = self.disk.write_status(offset, data)
            if flags & 1 and not error:
                error = self.flush()
            data = b''
        elif kind == 2:
            return False
        elif kind == 3:
            error = self.flush()
        elif kind == 4:
            cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24]
            error = self.disk.scsi(cdb, struct.pack(
                '>HHIQII', 22, 16, 0, offset // 512, length // 512,
                0)).status
        client.sendall(struct.pack('>IIQ', 0x67446698, 5 if error else 0,
                                   handle) + data)
        if error:
            self.failures.append('request %d at %d: %#x' % (kind, offset,
                                                            error))
        return True

    def flush(self):
        return self.disk.scsi([0x35]).status
