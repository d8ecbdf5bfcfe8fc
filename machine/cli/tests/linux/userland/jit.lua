-- Work that is compiled while it runs: loops of several kinds, code made of text, compiled code thrown away again.
local ffi, bit = require "ffi", require "bit"
local rounds = tonumber(arg[1])
assert(jit.status(), "the compiler is off")
ffi.cdef [[ typedef struct { double x, y; int32_t n; } point; ]]

local function sieve(n)
  local marks, count = ffi.new("uint8_t[?]", n + 1), 0
  for i = 2, n do
    if marks[i] == 0 then
      count = count + 1
      for j = i + i, n, i do marks[j] = 1 end
    end
  end
  return count
end

local function points(n)
  local all, sum = ffi.new("point[?]", 64), 0
  for i = 0, n - 1 do
    local p = all[i % 64]
    p.x, p.y, p.n = p.x * 0.5 + i, p.y - i / 3, bit.bxor(p.n, i)
    sum = sum + p.x * p.y + p.n
  end
  return string.format("%.9g", sum)
end

local function strings(n)
  local t = {}
  for i = 1, n do t[#t + 1] = ("%x"):format(i * 2654435761 % 4294967296):reverse():upper():sub(1, i % 7 + 1) end
  table.sort(t)
  local s = table.concat(t, ",")
  return #s .. " " .. s:sub(1, 20) .. " " .. select(2, s:gsub("A", "b"))
end

local function switching(n)
  local make = coroutine.wrap(function() local x = 1; while true do x = (x * 48271) % 2147483647; coroutine.yield(x) end end)
  local sum = 0
  for _ = 1, n do sum = (sum + make()) % 1000003 end
  return sum
end

local function written(n)
  local sum = 0
  for i = 1, n do
    local f = assert(loadstring(("local a, n = ... for k = 1, n do a = (a * %d + k) %% %d end return a"):format(i + 2, 65521 + i)))
    sum = (sum + f(i, 300)) % 1000003
  end
  return sum
end

for round = 1, rounds do
  print("RESULT sieve", sieve(20000 + round))
  print("RESULT points", points(50000 + round))
  print("RESULT strings", strings(2000 + round))
  print("RESULT switching", switching(20000 + round))
  print("RESULT written", written(60 + round))
  if round % 2 == 0 then jit.flush() end
end
