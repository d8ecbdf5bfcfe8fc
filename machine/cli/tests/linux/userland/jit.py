"""Work that a tracing compiler compiles while it runs, and code that is made of text."""
import sys


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None


def tree(n):
    root, x, depths = Node(1 << 30), 1, 0
    for _ in range(n):
        x = x * 48271 % 2147483647
        node, depth = root, 0
        while True:
            side = "left" if x < node.key else "right"
            following = getattr(node, side)
            depth += 1
            if following is None:
                setattr(node, side, Node(x))
                break
            node = following
        depths += depth
    return depths


def matrix(n):
    a = [[(i * j) % 7 + 0.5 for j in range(n)] for i in range(n)]
    b = [[sum(x * y for x, y in zip(row, column)) for column in zip(*a)] for row in a]
    return repr(sum(map(sum, b)))


def text(n):
    words = {}
    for i in range(n):
        word = format(i * 2654435761 % 997, "x")[::-1]
        words[word] = words.get(word, 0) + len(word)
    return sorted(words.items())[:3], sum(words.values())


def large(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a % 1000000007


def written(n):
    total = 0
    for i in range(n):
        space = {}
        exec(f"def f(a):\n for k in range(2000): a = (a * {i + 3} + k) % {65521 + i}\n return a", space)
        total += space["f"](i)
    return total


for turn in range(int(sys.argv[1])):
    for work, amount in ((tree, 20000), (matrix, 60), (text, 60000), (large, 5000), (written, 30)):
        print("RESULT", work.__name__, work(amount + turn))
