-- Timers and tasks: three ticks beside a task that waits for them.
local ticks = mx.chan(10)
local timer = mx.every(0.05, function() ticks:put(mx.now()) end)

local first = ticks:get()
for _ = 1, 2 do ticks:get() end
timer:cancel()
print(("three ticks in %.1f s"):format(mx.now() - first + 0.05))
