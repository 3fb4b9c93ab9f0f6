# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases: a migration keeps to the network that it is given, and takes nobody from another one.

The hosts have two cables. By their routes all would go over cable0; the network of its own is cable1. What passes
on cable0 is counted to the byte, resets and all. Only where nothing but an interface is given, the kernel may send a
reset there: it knows no interface for what comes to a connection that is gone.
"""

import os
import socket
import time

from ends import connect_from, globals_of, go, listeners, pair
from migration import listen, migrate
from streams import QMPError
from suite import require
from wires import Cable, Watch, Wires

# b's address on cable0 can be reached from a's own network, too, by whoever asks for that.
BY_ADDRESS = ['ip rule add from 10.78.1.1 table 100', 'ip route add 10.78.0.2 via 10.78.1.2 table 100',
              'ip -6 rule add from fd78:1::1 table 100', 'ip -6 route add fd78::2 via fd78:1::2 dev cable1 table 100']
BY_INTERFACE = ['ip route add 10.78.0.0/24 via 10.78.1.2 dev cable1 metric 2000']
OWN_SOURCES = {'10.78.1.1', 'fd78:1::1'}
FLOOD = 300
# In /proc/net/if_inet6.
LINK_SCOPE, TENTATIVE = '20', 0x40


def check_source(commands, parameters, address, *, switched_off=(False, False), caps=None, params=None, ports=3):
    """The source goes to b's address on cable0, and not by cable0."""
    with Wires([Cable(), Cable()]) as wires:
        for words in commands:
            wires.a.run(*words.split())
        ends = [globals_of(**values, **({'enabled': 'off'} if off else {}))
                for values, off in zip((parameters, {}), switched_off)]
        src, dst = pair(wires, *ends)
        with src, dst, Watch(wires.b, 'cable0') as other, Watch(wires.b, 'cable1') as own:
            src.start()
            dst.start()
            done = migrate(src, dst, f'tcp:{address}:0', caps=caps, params=params)
            require(any(switched_off) or done.ferry['phase'] == 'done', 'not by Ferry', done.ferry)
        allowed = other.reset_bytes if commands is BY_INTERFACE else 0
        require(other.ip_bytes == allowed, 'bytes go by the other cable', (other.ip_bytes, other.seen))
        used = {packet.source_port for packet in own.seen if packet.source in OWN_SOURCES}
        require(len(used) >= ports, f'there are not {ports} connections', own.seen)


def test_an_address_is_left_from():
    check_source(BY_ADDRESS, {'bind_address': '10.78.1.1'}, '10.78.0.2')


def test_an_address_is_left_from_ipv6():
    check_source(BY_ADDRESS, {'bind_address': 'fd78:1::1'}, '[fd78::2]')


def test_an_interface_is_left_by():
    check_source(BY_INTERFACE, {'bind_interface': 'cable1'}, '10.78.0.2')


def test_an_address_and_an_interface_are_left_by():
    check_source(BY_INTERFACE, {'bind_interface': 'cable1', 'bind_address': '10.78.1.1'}, '10.78.0.2')


def test_an_address_of_a_host_with_a_loopback_only():
    with Wires([]) as wires:
        src, dst = pair(wires, globals_of(bind_address='127.0.0.9'), source_net=wires.b)
        with src, dst:
            src.start()
            dst.start()
            go(src, dst, '127.0.0.1')


def test_multifd_leaves_from_the_address():
    multifd = {'caps': {'multifd': True}, 'params': {'multifd-channels': 4}}
    check_source(BY_ADDRESS, {'bind_address': '10.78.1.1'}, '10.78.0.2', switched_off=(False, True), ports=5, **multifd)


def test_without_ferry_it_leaves_from_the_address():
    multifd = {'caps': {'multifd': True}, 'params': {'multifd-channels': 4}}
    check_source(BY_ADDRESS, {'bind_address': '10.78.1.1'}, '10.78.0.2', switched_off=(True, True), ports=5, **multifd)


def test_without_an_address_the_routes_count():
    """The other cases would notice."""
    with Wires([Cable(), Cable()]) as wires:
        for words in BY_ADDRESS:
            wires.a.run(*words.split())
        src, dst = pair(wires)
        with src, dst, Watch(wires.b, 'cable0') as other, Watch(wires.b, 'cable1') as own:
            src.start()
            dst.start()
            go(src, dst, '10.78.0.2')
        require(other.ip_bytes > 1000 and own.ip_bytes == 0, 'it goes elsewhere', (other.seen, own.seen))


def link_local(net, device):
    """That interface's link-local address, as soon as it can be used."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with open(f'/proc/{net.process.pid}/net/if_inet6', encoding='ascii') as f:
            for address, _, _, scope, flags, name in map(str.split, f):
                if name == device and scope == LINK_SCOPE and not int(flags, 16) & TENTATIVE:
                    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
        time.sleep(0.1)
    raise TimeoutError(f'{device} has no link-local address')


def test_link_local_addresses():
    """Which are of one interface each, at both ends."""
    with Wires([Cable(), Cable()]) as wires:
        here, there = link_local(wires.a, 'cable1'), link_local(wires.b, 'cable1')
        src, dst = pair(wires, globals_of(bind_address=f'{here}%cable1'), globals_of(bind_address=f'{there}%cable1'))
        with src, dst, Watch(wires.b, 'cable0') as other:
            src.start()
            dst.start()
            dst.qmp('migrate-incoming', uri='tcp:[::]:0')
            address = dst.qmp('query-migrate')['socket-address'][0]
            require(address['host'] == f'{there}%cable1', 'it listens elsewhere', address)
            src.qmp('migrate', uri=f"tcp:[{address['host']}]:{address['port']}")
            dst.wait_event('RESUME')
            require(src.qmp('query-ferry').get('path'), 'not by Ferry', src.qmp('query-ferry'))
        require(other.ip_bytes == 0, 'bytes go by the other cable', other.seen)


# --- Where it is awaited ----------------------------------------------------------------------------

def answers(net, address, port):
    """Whether somebody there takes a connection."""
    def dial():
        try:
            socket.create_connection((address, port), 5).close()
        except OSError:
            return False
        return True

    return net.call(dial)


def check_destination(parameters, uri, expected, *, ipv6=False):
    """It is awaited on cable1 alone, and can be reached there; over IPv6, too, if that is asked for."""
    with Wires([Cable(), Cable()]) as wires:
        src, dst = pair(wires, destination=globals_of(**parameters))
        with src, dst, Watch(wires.b, 'cable1') as own:
            src.start()
            dst.start()
            dst.qmp('migrate-incoming', uri=uri)
            require(listeners(dst) == expected, 'it listens elsewhere', listeners(dst))
            port = int(dst.qmp('query-migrate')['socket-address'][0]['port'])
            for elsewhere in ('10.78.0.2', 'fd78::2'):
                require(not answers(wires.a, elsewhere, port), 'it answers on the other cable', listeners(dst))
            address = '[fd78:1::2]' if ipv6 else '10.78.1.2'
            src.qmp('migrate', uri=f'tcp:{address}:{port}')
            dst.wait_event('RESUME')
            require(src.qmp('query-ferry').get('path'), 'not by Ferry', src.qmp('query-ferry'))
        require(own.ip_bytes > 1000, 'nothing came', own.seen)


def test_it_is_awaited_at_the_address():
    check_destination({'bind_address': '10.78.1.2'}, 'tcp:0.0.0.0:0', ['10.78.1.2'])


def test_it_is_awaited_at_the_address_for_ipv6_wildcards():
    check_destination({'bind_address': '10.78.1.2'}, 'tcp:[::]:0', ['10.78.1.2'])


def test_it_is_awaited_on_the_interface():
    check_destination({'bind_interface': 'cable1'}, 'tcp:0.0.0.0:0', ['0.0.0.0'])


def test_it_is_awaited_on_the_interface_for_both_protocols():
    for ipv6 in (False, True):
        check_destination({'bind_interface': 'cable1'}, 'tcp:[::]:0', ['::'], ipv6=ipv6)


def test_it_is_awaited_without_ferry():
    with Wires([Cable(), Cable()]) as wires:
        src, dst = pair(wires, destination=globals_of(enabled='off', bind_address='10.78.1.2', bind_interface='cable1'))
        with src, dst:
            src.start()
            dst.start()
            dst.qmp('migrate-incoming', uri='tcp::0')
            require(listeners(dst) == ['10.78.1.2'], 'it listens elsewhere', listeners(dst))
            port = dst.qmp('query-migrate')['socket-address'][0]['port']
            src.qmp('migrate', uri=f'tcp:10.78.1.2:{port}')
            dst.wait_event('RESUME')


def refusal_of(vm, command, **arguments):
    """What QEMU says when it refuses that command."""
    try:
        vm.qmp(command, **arguments)
    except QMPError as e:
        return str(e)
    return 'nothing: it was done'


def why_failed(vm):
    """What the source's migration says, once it has failed."""
    deadline = time.monotonic() + 20
    while vm.qmp('query-migrate').get('status') != 'failed':
        require(time.monotonic() < deadline, 'it does not fail', vm.qmp('query-migrate'))
        time.sleep(0.05)
    return vm.qmp('query-migrate').get('error-desc', 'nothing')


def expect_words(found, *words):
    for text in words:
        require(text in found, f'it does not say "{text}"', found)


def check_not_awaited(wires, uri, words):
    """A destination that is bound to 10.78.1.2 refuses that. (A QEMU can be told to listen once.)"""
    _, dst = pair(wires, destination=globals_of(bind_address='10.78.1.2'))
    with dst:
        dst.start()
        expect_words(refusal_of(dst, 'migrate-incoming', uri=uri), words)


def test_another_address_is_refused():
    with Wires([Cable(), Cable()]) as wires:
        check_not_awaited(wires, 'tcp:10.78.0.2:0', "awaited at '10.78.0.2', and bind-address is another one")
        check_not_awaited(wires, 'tcp:[fd78::2]:0,ipv6=on', "awaited at 'fd78::2', and bind-address is another one")
        check_not_awaited(wires, 'tcp:no.such.host.invalid:0', "no address of 'no.such.host.invalid' can be used: ")


def test_ports_are_tried_in_turn():
    with Wires([Cable(), Cable()]) as wires, wires.b.call(lambda: socket.create_server(('10.78.1.2', 4000))):
        check_not_awaited(wires, 'tcp:10.78.1.2:4000', "cannot listen on '10.78.1.2:4000': Address already in use")
        _, dst = pair(wires, destination=globals_of(bind_address='10.78.1.2'))
        with dst:
            dst.start()
            dst.qmp('migrate-incoming', uri='tcp:10.78.1.2:4000,to=4002')
            address = dst.qmp('query-migrate')['socket-address'][0]
            require(address['port'] == '4001', 'not the next port', address)


# --- What somebody has passed -----------------------------------------------------------------------

def check_passed(parameters, words):
    """A connection over cable0 that is passed to both is refused by both, and carries nothing."""
    with Wires([Cable(), Cable()]) as wires:
        src, dst = pair(wires, globals_of(**parameters[0]), globals_of(**parameters[1]))
        with src, dst:
            src.start()
            dst.start()
            ends = connect_from(wires, lambda opened: None)
            with Watch(wires.b, 'cable0') as watch:
                for vm, end in zip((src, dst), ends):
                    vm.pass_fd(end.fileno(), 'migration')
                expect_words(refusal_of(dst, 'migrate-incoming', uri='fd:migration'), words[1])
                src.qmp('migrate', uri='fd:migration')
                expect_words(why_failed(src), words[0])
            for end in ends:
                end.close()
            require(not watch.data_bytes, 'something was sent', watch.seen)


def test_a_connection_that_was_passed_must_be_at_the_address():
    check_passed(({'bind_address': '10.78.1.1'}, {'bind_address': '10.78.1.2'}),
                 ("the connection's address here is 10.78.0.1, and bind-address is another one",
                  "the connection's address here is 10.78.0.2, and bind-address is another one"))


def test_a_connection_that_was_passed_must_be_bound_to_the_interface():
    check_passed(({'bind_interface': 'cable1'}, {'bind_interface': 'cable1'}),
                 ("the connection is not bound to the interface 'cable1'",) * 2)


def check_mapped(parameters):
    with Wires([Cable()]) as wires:
        src, dst = pair(wires, destination=globals_of(**parameters))
        with src, dst:
            src.start()
            dst.start()
            for vm, end in zip((src, dst), connect_from(wires, lambda opened: None, mapped=True)):
                vm.pass_fd(end.fileno(), 'migration')
                end.close()
            src.qmp('migrate-set-parameters', {'max-bandwidth': 65536})
            dst.qmp('migrate-incoming', uri='fd:migration')
            src.qmp('migrate', uri='fd:migration')
            deadline = time.monotonic() + 30
            while not src.qmp('query-ferry').get('path'):
                require(time.monotonic() < deadline, 'no session', (src.qmp('query-ferry'), dst.log()))
                time.sleep(0.05)
            require(listeners(dst) == ['10.78.0.2'], 'it listens elsewhere', listeners(dst))
            src.qmp('migrate-set-parameters', {'max-bandwidth': 0})
            dst.wait_event('RESUME')


def test_a_connection_that_was_passed_and_is_ipv4_in_ipv6():
    check_mapped({})
    check_mapped({'bind_address': '10.78.0.2'})


def test_a_connection_of_another_network_namespace():
    """QEMU has the same address in its own, where Ferry must not go; QEMU's own path carries the migration."""
    with Wires([Cable()]) as wires:
        other = wires.add_net('other')
        for words in ('link add own0 type veth peer name own1', 'link set own0 up', 'link set own1 up',
                      'address add 10.78.0.1/24 dev own0'):
            other.run('ip', *words.split())
        src, dst = pair(wires, source_net=other)
        with src, dst, Watch(other, 'own0') as watch:
            src.start()
            dst.start()
            for vm, end in zip((src, dst), connect_from(wires, lambda opened: None)):
                vm.pass_fd(end.fileno(), 'migration')
                end.close()
            dst.qmp('migrate-incoming', uri='fd:migration')
            src.qmp('migrate', uri='fd:migration')
            dst.wait_event('RESUME')
            expect_words(src.qmp('query-ferry').get('reason', ''), 'was made in another network namespace')
        require(watch.ip_bytes == 0, "something leaves by QEMU's own network", watch.seen)


def test_the_way_there_does_not_begin_in_the_network():
    with Wires([Cable(), Cable()]) as wires:
        wires.a.run('ip', 'route', 'add', 'unreachable', '10.79.0.0/16')
        src, _ = pair(wires)
        with src:
            src.start()
            for address, interface, names in (('', 'cable1', 'bind-interface'),
                                              ('10.78.1.1', '', 'bind-address'),
                                              ('10.78.1.1', 'cable1', 'bind-address and bind-interface')):
                src.qmp('ferry-set-parameters', {'bind-address': address, 'bind-interface': interface})
                src.qmp('migrate', uri='tcp:10.79.0.1:4444')
                expect_words(why_failed(src), f"cannot connect to '10.79.0.1:4444' from {names}: ")


# --- Whose connections are taken --------------------------------------------------------------------

def refused(vm):
    return vm.qmp('query-ferry').get('refused-connections', 0)


def refusals_in(vm):
    return [line for line in vm.log().splitlines() if ' was refused: allow names no subnet' in line]


def check_allow(allow, taken, not_taken, uri, *, source_enabled=True, enabled=True):
    """A source that comes from an address that is not allowed fails at once; then it comes from another."""
    with Wires([Cable(), Cable()]) as wires:
        src, dst = pair(wires, globals_of(enabled='on' if source_enabled else 'off'),
                        globals_of(allow=allow, enabled='on' if enabled else 'off'))
        with src, dst:
            src.start()
            dst.start()
            dst.qmp('migrate-incoming', uri=uri)
            port = dst.qmp('query-migrate')['socket-address'][0]['port']
            src.qmp('migrate', uri=f'tcp:{not_taken}:{port}')
            why_failed(src)
            require(refused(dst) == 1, 'not one connection was refused', dst.qmp('query-ferry'))
            require(len(refusals_in(dst)) == 1, 'the log does not have that once', dst.log())
            require(dst.qmp('query-status')['status'] == 'inmigrate', 'it waits no more', dst.qmp('query-status'))
            require('refused: 1 connections' in dst.hmp('info ferry'), 'not in the words', dst.hmp('info ferry'))
            src.qmp('migrate', uri=f'tcp:{taken}:{port}')
            dst.wait_event('RESUME')
            require(refused(dst) == 1, 'more were refused', dst.qmp('query-ferry'))
        return refusals_in(dst)[0]


def test_allow_ipv4():
    line = check_allow('10.78.1.0/24', '10.78.1.2', '10.78.0.2', 'tcp:0.0.0.0:0')
    expect_words(line, 'a connection from 10.78.0.1 was refused')


def test_allow_ipv4_where_ipv6_is_awaited_too():
    check_allow('10.78.1.1,2001:db8::/32', '10.78.1.2', '10.78.0.2', 'tcp:[::]:0')


def test_allow_ipv6():
    line = check_allow('fd78:1::/64', '[fd78:1::2]', '[fd78::2]', 'tcp:[::]:0')
    expect_words(line, 'a connection from fd78::1 was refused')


def test_allow_without_ferry():
    check_allow('10.78.1.0/24', '10.78.1.2', '10.78.0.2', 'tcp:0.0.0.0:0', enabled=False)
    check_allow('10.78.1.0/24', '10.78.1.2', '10.78.0.2', 'tcp:0.0.0.0:0', source_enabled=False)


def descriptors_of(vm):
    return len(os.listdir(f'/proc/{vm.pid}/fd'))


def flood(net, address, port, nr):
    """Connect so often, and see the end of each; how many were reset or closed without a word."""
    def dial():
        ended = 0
        for _ in range(nr):
            try:
                with socket.create_connection((address, port), 20) as opened:
                    opened.settimeout(20)
                    opened.sendall(b'QEVM')
                    ended += opened.recv(1) == b''
            except ConnectionError:  # it may be reset before anybody has seen that it was there
                ended += 1
        return ended

    return net.call(dial)


def test_a_flood_from_elsewhere():
    """It is counted, costs a moment each, makes a line or two in the log, and keeps nobody from migrating."""
    with Wires([Cable(), Cable()]) as wires:
        src, dst = pair(wires, destination=globals_of(allow='10.78.1.0/24'))
        with src, dst:
            src.start()
            dst.start()
            uri = listen(dst, 'tcp:0.0.0.0:0')
            port = int(uri.rsplit(':', 1)[1])
            dst.vcpu_tids()
            descriptors, used = descriptors_of(dst), dst.cpu_seconds()
            require(flood(wires.a, '10.78.0.2', port, FLOOD) == FLOOD, 'some are left', refused(dst))
            used = dst.cpu_seconds() - used
            require(refused(dst) == FLOOD, 'the count', dst.qmp('query-ferry'))
            require(descriptors_of(dst) <= descriptors, 'descriptors are left', descriptors_of(dst))
            require(len(refusals_in(dst)) < FLOOD / 10, 'the log is full of it', dst.log())
            print(f'# {FLOOD} connections refused: {used / FLOOD * 1e6:.0f} us of CPU time each')
            src.qmp('migrate', uri=f'tcp:10.78.1.2:{port}')
            dst.wait_event('RESUME')
            require(src.qmp('query-ferry').get('path'), 'not by Ferry', src.qmp('query-ferry'))
