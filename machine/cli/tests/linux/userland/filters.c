// Attaches socket filters, which the kernel translates to code of its own, and says what they let through.
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) return 1;
    unsigned sum = 0;
    for (unsigned n = 1; n <= 200; n++) {
        // Takes as many bytes as a loop-free sum over the packet says, another one each time.
        struct sock_filter code[64];
        unsigned len = 0;
        code[len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, n);
        for (unsigned i = 0; i < n % 12 + 1; i++) {
            code[len++] = (struct sock_filter)BPF_STMT(BPF_MISC | BPF_TAX, 0);
            code[len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_B | BPF_ABS, i);
            code[len++] = (struct sock_filter)BPF_STMT(BPF_ALU | (i % 3 ? BPF_ADD : BPF_XOR) | BPF_X, 0);
            code[len++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 2 * n + 1);
        }
        code[len++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3f);
        code[len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 40, 0, 1);
        code[len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
        code[len++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1);
        code[len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
        struct sock_fprog program = {(unsigned short)len, code};
        if (setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program)) return 2;
        for (unsigned packet = 0; packet < 8; packet++) {
            unsigned char bytes[64], got[64];
            for (unsigned i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 11 + packet * 29 + n);
            // What is filtered away the sender is not told, except by EPERM.
            send(pair[0], bytes, sizeof bytes, 0);
            long length = recv(pair[1], got, sizeof got, MSG_DONTWAIT);
            sum = sum * 31 + (unsigned)length;
        }
    }
    printf("filters %08x\n", sum);
    return 0;
}
