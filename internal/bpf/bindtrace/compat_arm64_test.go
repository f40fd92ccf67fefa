package bindtrace

import "slices"

const (
	compatMachine = 40         // EM_ARM
	compatFlags   = 0x05000000 // EF_ARM_EABI_VER5
)

var compatCalls = []compatCall{
	{OpBind, 1, armCode(0x1a, [4]byte{192, 0, 2, 1})},
	{OpConnect, 1, armCode(0x1b, [4]byte{127, 0, 0, 1})},
}

// armCode calls the system call, whose number is less 0x100 here, with port 4840, and
// exits with the errno.
func armCode(nr byte, addr [4]byte) []byte {
	return slices.Concat(
		[]byte{0x02, 0x00, 0xa0, 0xe3}, // mov r0, #AF_INET
		[]byte{0x01, 0x10, 0xa0, 0xe3}, // mov r1, #SOCK_STREAM
		[]byte{0x00, 0x20, 0xa0, 0xe3}, // mov r2, #0
		[]byte{0x19, 0x71, 0x00, 0xe3}, // movw r7, #__NR_socket
		[]byte{0x00, 0x00, 0x00, 0xef}, // svc #0

		[]byte{0x14, 0x10, 0x8f, 0xe2}, // adr r1, 1f
		[]byte{0x10, 0x20, 0xa0, 0xe3}, // mov r2, #16
		[]byte{nr, 0x71, 0x00, 0xe3},   // movw r7, #__NR_bind or #__NR_connect
		[]byte{0x00, 0x00, 0x00, 0xef}, // svc #0

		[]byte{0x00, 0x00, 0x60, 0xe2}, // rsb r0, r0, #0
		[]byte{0x01, 0x70, 0xa0, 0xe3}, // mov r7, #__NR_exit
		[]byte{0x00, 0x00, 0x00, 0xef}, // svc #0

		[]byte{0x02, 0x00, 0x12, 0xe8}, // 1: AF_INET, 4840
		addr[:],
		make([]byte, 8), // sin_zero
	)
}
