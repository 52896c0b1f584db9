-- Writes a file's text as a module that returns it: luajit docs/module.lua docs/meta/mx.lua > mx.meta.lua
io.write("return [====[\n", io.open((...)):read "*a", "]====]\n")
