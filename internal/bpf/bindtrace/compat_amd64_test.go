package bindtrace

import "slices"

const (
	compatMachine = 3 // EM_386
	compatFlags   = 0
)

var compatCalls = []compatCall{
	{OpBind, 2, i386Code(2, 0x69, [4]byte{192, 0, 2, 1})},
	{OpConnect, 2, i386Code(3, 0x6a, [4]byte{127, 0, 0, 1})},
}

// i386Code calls twice with port 4840, by socketcall(2) and by the system call of the
// i386, whose number is less 0x100 here, and exits with the errno of both, or 1.
func i386Code(socketcall, nr byte, addr [4]byte) []byte {
	return slices.Concat(
		[]byte{0x6a, 0x00, 0x6a, 0x01, 0x6a, 0x02}, // push 0, SOCK_STREAM, AF_INET
		[]byte{0x89, 0xe1},                         // mov %esp, %ecx
		[]byte{0xbb, 0x01, 0x00, 0x00, 0x00},       // mov $SYS_SOCKET, %ebx
		[]byte{0xb8, 0x66, 0x00, 0x00, 0x00},       // mov $__NR_socketcall, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
		[]byte{0x89, 0xc7},                         // mov %eax, %edi

		[]byte{0x6a, 0x00, 0x6a, 0x00},             // push sin_zero
		append([]byte{0x68}, addr[:]...),           // push the address
		[]byte{0x68, 0x02, 0x00, 0x12, 0xe8},       // push AF_INET, 4840
		[]byte{0x89, 0xe6},                         // mov %esp, %esi
		[]byte{0x6a, 0x10, 0x56, 0x57, 0x89, 0xe1}, // push 16, %esi, %edi; mov %esp, %ecx
		[]byte{0xbb, socketcall, 0x00, 0x00, 0x00}, // mov $SYS_BIND or $SYS_CONNECT, %ebx
		[]byte{0xb8, 0x66, 0x00, 0x00, 0x00},       // mov $__NR_socketcall, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
		[]byte{0x89, 0xc5},                         // mov %eax, %ebp

		[]byte{0x89, 0xfb, 0x89, 0xf1},       // mov %edi, %ebx; mov %esi, %ecx
		[]byte{0xba, 0x10, 0x00, 0x00, 0x00}, // mov $16, %edx
		[]byte{0xb8, nr, 0x01, 0x00, 0x00},   // mov $__NR_bind or $__NR_connect, %eax
		[]byte{0xcd, 0x80},                   // int $0x80

		[]byte{0x89, 0xc3, 0x29, 0xe8, 0x75, 0x09}, // mov %eax, %ebx; sub %ebp, %eax; jne 1f
		[]byte{0xf7, 0xdb},                         // neg %ebx
		[]byte{0xb8, 0x01, 0x00, 0x00, 0x00},       // mov $__NR_exit, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
		[]byte{0xbb, 0x01, 0x00, 0x00, 0x00},       // 1: mov $1, %ebx
		[]byte{0xb8, 0x01, 0x00, 0x00, 0x00},       // mov $__NR_exit, %eax
		[]byte{0xcd, 0x80},                         // int $0x80
	)
}
