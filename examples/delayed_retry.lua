-- Later, not at once: a delivery waits in a delay queue on the broker, and nothing behind it is held up meanwhile.
assert(mx.topology { queues = { mails = { dlq = true } } })

assert(mx.consume("mails", { retry = { max = 3, base = 0.1, factor = 2, jitter = false } }, function(msg)
  print(msg.body, "attempt " .. msg.attempt)
  if msg.body == "to ann" and msg.attempt < 3 then return "retry", 0.1 end     -- the script says when
  if msg.body == "to bob" then error "no such mailbox" end                     -- the policy does: 0.1 s, 0.2 s, 0.5 s, then dead
end))
assert(mx.consume("mails.dlq", function(msg)
  print(msg.body, (msg.headers["x-mx-error"]:gsub("^.*: ", "")))
  mx.stop()
end))

for _, to in ipairs { "to ann", "to bob", "to cec" } do assert(mx.publish("", "mails", to)) end
