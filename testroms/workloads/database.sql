-- Inserts with and without an index, selections by range, by pattern and by join, updates, deletions, a vacuum.
-- ROWS stands for the number of rows.
CREATE TABLE plain(a INTEGER, b INTEGER, c TEXT);
CREATE TABLE keyed(a INTEGER PRIMARY KEY, b INTEGER, c TEXT);
CREATE INDEX keyed_b ON keyed(b);
CREATE INDEX keyed_c ON keyed(c);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
  INSERT INTO plain SELECT i, i * 2654435761 % 1000003, printf('%08x row %d', i * 40503 % 65521, i) FROM n;
COMMIT;
BEGIN;
INSERT INTO keyed SELECT a, b, c FROM plain ORDER BY b;
COMMIT;
SELECT count(*), sum(b), min(c), max(c) FROM plain WHERE b BETWEEN 1000 AND 500000;
SELECT count(*), avg(b) FROM plain WHERE c LIKE '%a%7%';
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS / 4)
  SELECT sum((SELECT count(*) FROM keyed WHERE b BETWEEN i * 37 AND i * 37 + 100)) FROM n;
SELECT count(*), sum(x.b - y.b) FROM plain x JOIN keyed y ON y.a = x.a + 1 WHERE y.b % 3 = 0;
SELECT substr(c, 1, 2) AS head, count(*), sum(b) FROM keyed GROUP BY head ORDER BY 3 DESC LIMIT 40;
SELECT a, b, c FROM plain ORDER BY c DESC, b LIMIT 50;
BEGIN;
UPDATE keyed SET b = b + 7 WHERE a % 2 = 0;
UPDATE keyed SET c = c || ' changed' WHERE a % 5 = 0;
DELETE FROM keyed WHERE b % 10 < 3;
COMMIT;
VACUUM;
SELECT count(*), sum(b), sum(length(c)) FROM keyed;
PRAGMA integrity_check;
