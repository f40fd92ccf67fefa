package sockwalk

//go:generate go tool bpf2go -cc clang-14 -target bpfel,bpfeb -no-global-types sockwalk sockwalk.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable -Wno-unused-parameter
