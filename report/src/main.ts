document.title = "KV cache quality";
