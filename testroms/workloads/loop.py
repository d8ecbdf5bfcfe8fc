"""Records, calls, comparisons, strings and containers in a loop: what an interpreted program does all day.

usage: loop.py ROUNDS
"""
import sys


class Record:
    __slots__ = ("next", "kind", "number", "text")

    def __init__(self, next=None, kind=0, number=0, text=""):
        self.next, self.kind, self.number, self.text = next, kind, number, text

    def copy(self):
        return Record(self.next, self.kind, self.number, self.text)


TABLE = [0] * 51
GRID = [[0] * 51 for _ in range(51)]
WORDS = {}


def fill(table, grid, row, value):
    at = row + 5
    table[at] = value
    table[at + 1] = table[at]
    table[at + 30] = at
    for column in (at, at + 1):
        grid[at][column] = at
    grid[at][at - 1] += 1
    grid[(at + 20) % 51][at] = table[at]
    return table[at] + grid[at][at - 1]


def later(a, b):
    n = 1
    while n < 2:
        if a[n] == b[n + 1]:
            n += 1
        else:
            return a > b
    return a[:4] < b[:4]


def step(record, number):
    new = record.copy()
    new.number = (record.number * 3 + number) % 10007
    new.kind = (record.kind + 1) % 5
    if new.kind == 2:
        new.next = record.next or record
        new.text = f"{number:x}-{new.number}"
    elif new.kind == 4:
        new.next, new.text = None, record.text[::-1]
    return new


def main(rounds):
    record, total = Record(text="PROGRAM, SOME STRING"), 0
    for i in range(rounds):
        record = step(record, i)
        total += fill(TABLE, GRID, i % 15, i & 255)
        a, b, c = 2, 3, i % 11
        while a < b:
            c = 5 * a - b
            total += c * 2.5 > 7
            a += 1
        if later("PROGRAM, 1", "PROGRAM, 2"):
            total += len(record.text)
        word = record.text or "none"
        WORDS[word] = WORDS.get(word, 0) + 1
        if len(WORDS) > 500:
            total += sum(sorted(WORDS.values())[-3:])
            WORDS.clear()
        total %= 1000003
    print(total, record.number, sum(map(sum, GRID)), sum(TABLE))


main(int(sys.argv[1]))
