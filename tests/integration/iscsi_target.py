"""An iSCSI target (RFC 7143, as little of it as libiscsi needs) whose only
disk is a shared virtual disk behind the tunnel of MS-RSVD: every session is an
initiator with a shared open of its own.  So libiscsi's test suite judges the
SCSI of the server from end to end."""

import socket
import struct
import threading
import uuid

import rsvd

NAME = 'iqn.2026-11.org.hvrs:disk'
BURST = 256 << 10
SPACE = uuid.UUID('6ba7b812-9dad-11d1-80b4-00c04fd430c8')


class Target(threading.Thread):
    """Listens until close(); make(initiator) gives a Disk."""

    def __init__(self, make):
        super().__init__(daemon=True)
        self.make = make
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.failures = []

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            Session(self, client).start()

    def close(self):
        self.listener.close()


class Session(threading.Thread):
    def __init__(self, target, client):
        super().__init__(daemon=True)
        self.target, self.socket = target, client
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = 1
        self.command = 0
        self.segment = 8192
        self.disk = None
        self.keys = {}

    def run(self):
        try:
            while self.one():
                pass
        except (ConnectionError, OSError):
            pass
        except Exception as error:
            self.target.failures.append(repr(error))
        finally:
            self.socket.close()
            if self.disk is not None:
                self.disk.close()
                self.disk.tree.connection.close()

    # ---- PDUs ----------------------------------------------------------------

    def exactly(self, length):
        data = b''
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def receive(self):
        head = self.exactly(48)
        length = struct.unpack('>I', b'\0' + head[5:8])[0]
        if head[4]:
            self.exactly(4 * head[4])
        data = self.exactly((length + 3) // 4 * 4)[:length]
        return head, data

    def send(self, opcode, flags, task, fields=b'', data=b'', byte2=0,
             byte3=0, lun=bytes(8), tag=b'\xff' * 4, status=True):
        head = struct.pack('>BBBBI', opcode, flags, byte2, byte3, len(data))
        head += lun + task + tag + struct.pack(
            '>III', self.status, self.command, self.command + 64)
        head += fields.ljust(12, b'\0')
        if status:
            self.status = (self.status + 1) & 0xFFFFFFFF
        self.socket.sendall(head + data + bytes(-len(data) % 4))

    def one(self):
        head, data = self.receive()
        opcode, task = head[0] & 0x3F, head[16:20]
        if opcode != 5 and not head[0] & 0x40:
            self.command = struct.unpack_from('>I', head, 24)[0] + 1
        elif opcode == 3:
            self.command = struct.unpack_from('>I', head, 24)[0]
        if opcode == 3:
            self.login(head, task, data)
        elif opcode == 1:
            self.scsi(head, task, data)
        elif opcode == 0:
            if task != b'\xff' * 4:
                self.send(0x20, 0x80, task, data=data)
        elif opcode == 2:
            self.send(0x22, 0x80, task)
        elif opcode == 4:
            self.send(0x24, 0x80, task, data=(
                'TargetName=%s\0' % NAME).encode())
        elif opcode == 6:
            self.send(0x26, 0x80, task)
            return False
        return True

    def login(self, head, task, data):
        for pair in data.split(b'\0'):
            if b'=' in pair:
                key, value = pair.decode().split('=', 1)
                self.keys[key] = value
        self.segment = int(self.keys.get('MaxRecvDataSegmentLength', 8192))
        stage, after = head[1] >> 2 & 3, head[1] & 3
        answer = {'AuthMethod': 'None'} if stage == 0 else {
            'HeaderDigest': 'None', 'DataDigest': 'None',
            'InitialR2T': 'Yes', 'ImmediateData': 'Yes',
            'MaxBurstLength': str(BURST), 'FirstBurstLength': str(BURST),
            'MaxRecvDataSegmentLength': str(BURST), 'MaxConnections': '1',
            'MaxOutstandingR2T': '1', 'ErrorRecoveryLevel': '0',
            'DefaultTime2Wait': '0', 'DefaultTime2Retain': '0',
            'DataPDUInOrder': 'Yes', 'DataSequenceInOrder': 'Yes'}
        if stage == 1:
            answer = {key: value for key, value in answer.items()
                      if key in self.keys}
        text = ''.join('%s=%s\0' % pair for pair in answer.items()).encode()
        if after == 3 and self.disk is None:
            name = self.keys.get('InitiatorName', '') + head[8:14].hex()
            self.disk = self.target.make(uuid.uuid5(SPACE, name))
        self.send(0x23, head[1] & 0x8F, task, lun=head[8:14] + b'\0\1',
                  tag=bytes(4), data=text)

    # ---- commands ---------------------------------------------------------------

    def gather(self, head, task, data, length):
        """The data of a command that sends some, by R2T where needed."""
        data = bytearray(data)
        turn = 0
        while len(data) < length:
            part = min(BURST, length - len(data))
            self.send(0x31, 0x80, task, struct.pack('>III', turn, len(data),
                                                    part),
                      lun=head[8:16], tag=struct.pack('>I', turn + 1),
                      status=False)
            turn += 1
            want = len(data) + part
            while len(data) < want:
                got, more = self.receive()
                assert got[0] & 0x3F == 5, got[0]
                data += more
        return bytes(data)

    def scsi(self, head, task, data):
        length = struct.unpack_from('>I', head, 20)[0]
        reads, writes = head[1] & 0x40, head[1] & 0x20
        cdb = head[32:48]
        if head[8:16] != bytes(8) and cdb[0] not in (0x12, 0xA0, 3):
            sense = bytes.fromhex('700005000000000a00000000250000000000')
            self.answer(task, 2, sense, length, 0)
            return
        if writes:
            data = self.gather(head, task, data, length)
        result = self.disk.scsi(cdb, data[:length] if writes else b'',
                                length if reads else 0)
        got = result.data if reads else b''
        for number, at in enumerate(range(0, len(got), self.segment)):
            part = got[at:at + self.segment]
            last = at + len(part) == len(got)
            self.send(0x25, 0x80 if last else 0, task, struct.pack(
                '>III', number, at, 0), part, lun=head[8:16], status=False)
        moved = length if writes and result.status == 0 else len(got)
        self.answer(task, result.status, self.disk.sense, length, moved,
                    (len(got) + self.segment - 1) // self.segment)

    def answer(self, task, status, sense, wanted, moved, parts=0):
        short = wanted - moved
        data = struct.pack('>H', 18) + sense[:18] if status == 2 else b''
        self.send(0x21, 0x80 | (2 if short > 0 else 0), task, struct.pack(
            '>III', parts, 0, max(short, 0)), data, byte3=status,
            tag=bytes(4))
