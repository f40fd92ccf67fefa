//go:build linux

package bindtrace

//go:generate go tool bpf2go -tags linux -target bpfel,bpfeb -cc clang-14 -strip llvm-strip-14 -type event -type blocker -type unix_event bpf bindtrace.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable
